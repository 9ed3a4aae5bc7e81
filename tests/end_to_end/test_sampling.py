"""What samplers keep of real traffic, and that the rest is accounted for."""

import re

from tests.end_to_end.accounts import read_accounts
from tests.end_to_end.sink import CLIENT, SERVER
from tests.end_to_end.stage import Stage
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
