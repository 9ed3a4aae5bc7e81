"""What the shop sells: an ordinary FastAPI service. `uvicorn examples.shop.catalog:app`."""

import asyncio

from fastapi import FastAPI, HTTPException

app = FastAPI()
PRICES = {number: 100 + 7 * number for number in range(1, 41)}
SLOW_ITEM = 40  # its picture comes from far away


@app.get("/items")
async def items() -> list[dict[str, int]]:
    return [{"id": number, "price": price} for number, price in PRICES.items()]


@app.get("/items/{number}")
async def item(number: int) -> dict[str, int]:
    if number not in PRICES:
        raise HTTPException(404, "no such item")
    if number == SLOW_ITEM:
        await asyncio.sleep(0.3)
    return {"id": number, "price": PRICES[number]}
