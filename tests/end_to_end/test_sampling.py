"""What samplers keep of real traffic, and that the rest is accounted for."""

import re

from tests.end_to_end.accounts import read_accounts
from tests.end_to_end.sink import CLIENT, SERVER, Span
from tests.end_to_end.stage import Stage
from tests.end_to_end.test_recording import by_id, recording_agent, replay_as_nobody, stop
from tests.end_to_end.truth import belongs_to, differences
from tests.services.plan import Call, all_calls, make_call

TRACE = "00-{:032x}-b7ad6b7169203331-0{}"


def traced_calls(prefix: str) -> list[Call]:
    """Every third call is of a sampled trace, every third of one that is not, the others of none."""
    return [
        make_call(
            f"{prefix}{number:03}",
            "GET",
            headers={"traceparent": TRACE.format(number + 1, number % 3)} if number % 3 < 2 else {},
        )
        for number in range(60)
    ]


def test_a_ratio_of_the_traces_is_kept_and_the_rest_is_counted(prefix: str, stage: Stage) -> None:
    """Kept are those whose ids say so, each as true as ever. Five standard deviations of a binomial distribution."""
    server = stage.server("go")
    agent = stage.agent(
        is_ended_by_test=True,
        OTEL_EBPF_OPEN_PORT=server.port,
        OTEL_TRACES_SAMPLER="parentbased_traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0.5",
    )
    calls = [call for round_ in range(10) for call in all_calls(f"{prefix}{round_}-")]
    results = stage.client("http.client", server, calls).send()
    agent.assert_clean_stop()

    spans = stage.sink.wait_for(0, belongs_to(prefix, SERVER), settle_s=0)
    accounts = read_accounts(agent.messages)
    assert {"not sampled": len(calls) - len(spans)} == accounts.losses
    assert (len(calls), len(spans), len(spans)) == (accounts.began, accounts.spans, accounts.exported)
    assert abs(len(spans) - len(calls) / 2) < 5 * (len(calls) / 4) ** 0.5
    assert [] == [span for span in spans if int.from_bytes(span.trace_id[8:], "big") >= 1 << 63]
    seen = {span.attributes["url.path"] for span in spans}
    assert [] == differences([result for result in results if result.target.partition("?")[0] in seen], spans, SERVER)


def test_the_callers_decision_is_followed_by_both_ends(prefix: str, stage: Stage) -> None:
    """parentbased_always_off: the same spans of the service and of its client, those of sampled traces."""
    server = stage.server("gunicorn-gthread")
    calls = traced_calls(prefix)
    client = stage.client("http.client", server, calls)
    agent = stage.agent(
        is_ended_by_test=True,
        OTEL_EBPF_OPEN_PORT=server.port,
        OTEL_EBPF_TARGET_PID=client.pid,
        OTEL_TRACES_SAMPLER="parentbased_always_off",
        OTEL_EBPF_TRACE_PRINTER="json",
    )
    client.send()
    agent.assert_clean_stop()

    spans = stage.sink.wait_for(0, belongs_to(prefix), settle_s=0)
    sampled = sorted(
        int(call.headers["traceparent"][3:35], 16)
        for call in calls
        if call.headers.get("traceparent", "").endswith("1")
    )
    for kind in (SERVER, CLIENT):
        assert sampled == sorted(int.from_bytes(span.trace_id, "big") for span in spans if span.kind == kind)
    assert all(span.flags & 1 for span in spans)
    assert sorted(span.span_id.hex() for span in spans) == sorted(line["span_id"] for line in agent.printed())
    accounts = read_accounts(agent.messages)
    assert (120, 40, {"not sampled": 80}) == (accounts.began, accounts.spans, accounts.losses)
    assert 2 == len(re.findall(r"60 began, 20 spans, 40 not sampled", agent.messages))


def outcome_settings(port: int, argument: str) -> dict[str, str]:
    return {
        "OTEL_EBPF_OPEN_PORT": str(port),
        "OTEL_TRACES_SAMPLER": "otel_ebpf_outcome",
        "OTEL_TRACES_SAMPLER_ARG": argument,
    }


def threshold_in(span: Span) -> int:
    return int(span.trace_state.removeprefix("ot=th:").ljust(14, "0"), 16)


def test_errors_and_the_slowest_are_kept_and_the_rest_by_a_rate_that_it_says(prefix: str, stage: Stage) -> None:
    """Each span weighs what its kind does: those always kept count once, the others as many as their rate says."""
    server = stage.server("go")
    agent = stage.agent(is_ended_by_test=True, **outcome_settings(server.port, "rate=0.25,slowest=0.01"))
    calls = [make_call(f"{prefix}{number:03}", "GET", 500 if number % 20 == 0 else 200) for number in range(400)]
    calls.append(make_call(f"{prefix}slow", "GET", delay_ms=1_000))
    stage.client("http.client", server, calls).send()
    agent.assert_clean_stop()

    spans = stage.sink.wait_for(0, belongs_to(prefix, SERVER), settle_s=0)
    targets = {span.attributes["url.path"]: span for span in spans}
    always = [targets.get(call.path) for call in calls if call.status == 500 or call.delay_ms]
    assert 21 == len(always)
    assert {"ot=th:0"} == {span.trace_state if span else "lost" for span in always}
    by_rate = [span for span in spans if span.trace_state != "ot=th:0"]
    assert {"ot=th:c"} == {span.trace_state for span in by_rate}
    assert all(int.from_bytes(span.trace_id[9:], "big") >= threshold_in(span) for span in by_rate)
    weights = sum((1 << 56) / ((1 << 56) - threshold_in(span)) for span in spans)
    assert abs(weights - len(calls)) < 5 * (len(calls) * 3) ** 0.5
    accounts = read_accounts(agent.messages)
    assert {"not sampled": len(calls) - len(spans)} == accounts.losses
    assert (len(calls), len(spans), len(spans)) == (accounts.began, accounts.spans, accounts.exported)


def test_all_of_one_trace_are_kept_with_the_one_that_failed(prefix: str, stage: Stage) -> None:
    """404 is an error of the client alone: the server's span of the same call is kept for it, whether a header joins them or
    what is known of their connection."""
    server = stage.server("gunicorn-gthread")
    headers = [{"traceparent": TRACE.format(number + 1, 0), "tracestate": "shop=1"} for number in range(9)]
    traced = [make_call(f"{prefix}{n}", "GET", 404 if n % 3 == 0 else 200, headers=headers[n]) for n in range(9)]
    alone = [make_call(f"{prefix}alone{n}", "GET", 404) for n in range(3)]
    client = stage.client("http.client", server, traced + alone)
    agent = stage.agent(
        is_ended_by_test=True, OTEL_EBPF_TARGET_PID=client.pid, **outcome_settings(server.port, "rate=0,slowest=0")
    )
    client.send()
    agent.assert_clean_stop()

    spans = stage.sink.wait_for(0, belongs_to(prefix), settle_s=0)
    kept = sorted((span.kind, int.from_bytes(span.trace_id, "big")) for span in spans if span.trace_state != "ot=th:0")
    assert [(kind, trace) for kind in (SERVER, CLIENT) for trace in (1, 4, 7)] == kept
    roots = [span for span in spans if not span.parent_span_id]
    assert [CLIENT] * 3 == [span.kind for span in roots]
    below = [span for span in spans if span.trace_state == "ot=th:0" and span not in roots]
    assert sorted((SERVER, root.trace_id, root.span_id) for root in roots) == sorted(
        (span.kind, span.trace_id, span.parent_span_id) for span in below
    )
    assert {"ot=th:0,shop=1", "ot=th:0"} == {span.trace_state for span in spans}
    assert all(span.flags & 1 for span in spans)
    assert (24, 12, {"not sampled": 12}) == (
        read_accounts(agent.messages).began,
        len(spans),
        read_accounts(agent.messages).losses,
    )


def test_a_replay_decides_as_the_agent_did(prefix: str, stage: Stage) -> None:
    """What waited, and for how long, the levels of the slowest, the weights: the same spans to the last field."""
    server = stage.server("go")
    settings = outcome_settings(server.port, "rate=0.3,slowest=0.1")
    del settings["OTEL_EBPF_OPEN_PORT"]
    agent, path = recording_agent(stage, server.port, **settings)
    calls = [call for round_ in range(3) for call in all_calls(f"{prefix}{round_}-")] + traced_calls(f"{prefix}t")
    stage.client("http.client", server, calls).send()
    stop(agent)

    spans, said = replay_as_nobody(path)

    assert 0 < len(spans) < len(calls)
    assert by_id(stage.sink.spans) == by_id(spans)
    assert f"{len(calls)} requests began, {len(spans)} spans, {len(calls) - len(spans)} not sampled" in said
