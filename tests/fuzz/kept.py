"""How much of what it was given an object still holds."""

from types import FunctionType, MethodType


def kept_bytes(owner: object) -> int:
    """The bytes objects that can be reached from `owner`, each once; functions are not looked into."""
    seen: dict[int, object] = {}
    todo, total = [owner], 0
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | FunctionType | MethodType):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, bytes | bytearray):
            total += len(thing)
        elif isinstance(thing, dict):
            todo += [*thing.keys(), *thing.values()]
        elif isinstance(thing, list | tuple | set | frozenset):
            todo += thing
        else:
            names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
            todo += [getattr(thing, name, None) for name in names]
            todo += vars(thing).values() if hasattr(thing, "__dict__") else []
    return total
