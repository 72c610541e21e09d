"""Alerts of Alertmanager and CloudEvents as signals, by HTTP, from whoever can POST."""

import datetime
import json
import urllib.error
import urllib.request

import otlp
import pytest
from conftest import App, reading, wait_for


@pytest.fixture
def bed(server_of):
    server = server_of({"alerts": ["good"]})
    App(server, "good", 8110)
    App(server, "another", 8111)
    return server


def post(server, door: str, body, **headers: str) -> tuple[int, dict]:
    """A request to a door, and its answer as JSON."""
    named = {"authorization": otlp.bearer(server, "alerts"), "content-type": "application/json"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{server.address}/v1/{door}", data, named)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        return error.code, json.loads(text) if text.startswith("{") else {"message": text}


def alert(app: str | None = "good", status: str = "firing", **more) -> dict:
    labels = {"alertname": "HighCpu", "condition": "cpu_high", "severity": "critical"} | more.pop("labels", {})
    if app is not None:
        labels["app"] = app
    return {
        "status": status, "labels": labels, "annotations": {}, "startsAt": "2026-01-01T00:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "http://prometheus/graph", "fingerprint": "1",
    } | more  # fmt: skip


def webhook(*alerts: dict, version: str = "4") -> dict:
    """What Alertmanager sends."""
    return {
        "version": version, "groupKey": "{}:{}", "truncatedAlerts": 0, "status": "firing", "receiver": "agentd", "groupLabels": {},
        "commonLabels": {}, "commonAnnotations": {}, "externalURL": "http://alertmanager", "alerts": alerts,
    }  # fmt: skip


def test_a_firing_alert_is_a_claim_and_a_resolved_one_takes_it_back(bed):
    assert post(bed, "alertmanager", webhook(alert())) == (200, {"accepted": 1, "rejected": 0})
    wait_for("it is seen", lambda: reading(bed, "good").get("cpu_high") is True)
    post(bed, "alertmanager", webhook(alert(status="resolved")))
    wait_for("it is over", lambda: reading(bed, "good").get("cpu_high") is False)


def test_alerts_that_contradict_each_other_are_observed_and_nothing_is_done(bed):
    low = alert(labels={"condition": "cpu_low"})
    before = bed.head()
    assert post(bed, "alertmanager", webhook(alert(), low))[0] == 200
    decided = bed.wait_record(
        "the contradiction is decided on",
        lambda r: r["seq"] > before and r["event_name"] == "RL_DECISION" and "CONTRADICTION" in json.dumps(r["body"]),
    )
    assert decided["body"]["decided"]["proposal"]["action"] in ("OBSERVE", "NOOP"), decided
    assert not any(r["seq"] > before and r["event_name"] == "ORCH_EXEC" for r in bed.records())


def test_an_alert_with_the_value_it_fired_on_has_its_app_healed_like_any_monitor(bed):
    before = bed.head()
    # Not the CPU: agentd measures that itself, and an alert that says something else is a contradiction.
    slow = alert(labels={"condition": "slow"}, annotations={"latency_p99_seconds": "2.5"})

    def fire() -> bool:
        assert post(bed, "alertmanager", webhook(slow))[0] == 200
        return any(
            r["seq"] > before and r["event_name"] == "ORCH_EXEC" and r["body"]["attempted"]["plan"]["action"] == "SCALE_UP"
            for r in bed.records()
        )  # fmt: skip

    wait_for("another instance is started", fire, lambda: bed.log()[-4000:])
    assert "alertmanager@alerts" in json.dumps([r for r in bed.records() if r["event_name"] == "RL_DECISION"])


def test_alerts_that_are_none_are_told_one_by_one(bed):
    cases = {
        "an unknown app": (alert("nobody"), "UNKNOWN_APP", "app"),
        "an app of somebody else": (alert("another"), "UNKNOWN_APP", "app"),
        "no app": (alert(None), "UNKNOWN_APP", "labels"),
        "another environment": (alert(labels={"environment": "prod"}), "UNKNOWN_APP", "labels.environment"),
        "another status": (alert(status="pending"), "OUT_OF_RANGE", "status"),
        "from the future": (alert(startsAt="2999-01-01T00:00:00Z"), "CLOCK_SKEW", "time"),
        "no number": (alert(annotations={"error_ratio": "a lot"}), "NOT_FINITE", "error_ratio"),
        "not a number": (alert(annotations={"error_ratio": "NaN"}), "NOT_FINITE", "error_ratio"),
        "negative": (alert(annotations={"cpu_utilization": "-1"}), "NEGATIVE", "cpu_utilization"),
        "a name with escapes": (alert(labels={"condition": "\x1b[31m"}), "INVALID_NAME", "conditions"),
        "too many labels": (alert(labels={f"l{n}": "x" for n in range(100_000 // 10)}), "TOO_MANY", "labels"),
    }
    for what, (bad, reason, field) in cases.items():
        status, answer = post(bed, "alertmanager", webhook(alert(), bad))
        assert (status, answer["accepted"], answer["rejected"]) == (200, 1, 1), what
        found = [(r["index"], r["reason"], r["field"]) for r in answer["rejections"]]
        assert (1, reason, field) in found, f"{what}: {answer}"
        assert "\x1b" not in json.dumps(answer, ensure_ascii=False), what
    assert post(bed, "alertmanager", webhook(alert("nobody")))[0] == 422, "nothing of it was taken"
    assert post(bed, "alertmanager", webhook(alert(), version="3"))[0] == 400
    assert post(bed, "alertmanager", webhook(*[alert()] * 1_001))[0] == 400


SIGNAL = {"app": "good", "cpu_utilization": 0.25}


def event(data: object = None, **more) -> dict:
    return {
        "specversion": "1.0", "id": "1", "source": "/story", "type": "dev.agentctl.signal.v1", "time": now(),
        "data": SIGNAL if data is None else data,
    } | more  # fmt: skip


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


STRUCTURED = "application/cloudevents+json; charset=utf-8"
BATCH = "application/cloudevents-batch+json"


def test_cloud_events_come_structured_batched_and_binary_and_count_once(bed):
    taken = (200, {"accepted": 1, "rejected": 0})
    assert post(bed, "cloudevents", event(), content_type=STRUCTURED) == taken
    assert post(bed, "cloudevents", event(), content_type=STRUCTURED)[1]["duplicates"] == 1
    assert post(bed, "cloudevents", [event(id="2"), event(id="3")], content_type=BATCH)[1]["accepted"] == 2
    headers = {"ce_specversion": "1.0", "ce_id": "4", "ce_source": "/story", "ce_type": "dev.agentctl.signal.v1"}
    about = {"ce_subject": "good", "ce_time": now()}
    assert post(bed, "cloudevents", {"error_ratio": 0.125}, **headers, **about) == taken
    wait_for("it is seen", lambda: reading(bed, "good").get("error_ratio") == 0.125)


def test_events_that_are_none_name_every_rule_they_break(bed):
    status, answer = post(bed, "cloudevents", {"specversion": "0.3", "data": {"cpu": 1}}, content_type=STRUCTURED)
    assert status == 400, answer
    assert "5 fields are invalid" in answer["message"], answer
    cases = {
        "a field a signal has not": (400, event({"cpu": 1}), STRUCTURED),
        "not a signal": (400, event("text"), STRUCTURED),
        "another type": (400, event(type="com.example"), STRUCTURED),
        "a batch with a bad one": (400, [event(id="7"), event(type="x")], BATCH),
        "a time that is none": (400, event(time="yesterday"), STRUCTURED),
        "binary without its headers": (400, SIGNAL, "application/json"),
        "another form": (415, SIGNAL, "application/avro"),
        "not JSON": (400, b"{", STRUCTURED),
        "an unknown app": (422, event(SIGNAL | {"app": "nobody"}, id="8"), STRUCTURED),
        "an app of somebody else": (422, event(SIGNAL | {"app": "another"}, id="9"), STRUCTURED),
        "not a number": (422, event(SIGNAL | {"cpu_utilization": "NaN"}, id="10"), STRUCTURED),
        "ancient": (422, event(SIGNAL | {"time": "2020-01-01T00:00:00Z"}, id="11"), STRUCTURED),
    }
    for what, (expected, body, kind) in cases.items():
        status, answer = post(bed, "cloudevents", body, content_type=kind)
        assert status == expected, f"{what}: {status} {answer}"
    assert post(bed, "cloudevents", event(id="7"), content_type=STRUCTURED)[1]["accepted"] == 1, "the batch was not taken"


def test_who_has_no_token_or_one_that_is_no_monitors_brings_nothing(bed):
    for door in ("alertmanager", "cloudevents", "metrics"):
        assert post(bed, door, {}, authorization="Bearer agt_nobody")[0] == 401
        assert post(bed, door, {}, authorization=otlp.bearer(bed, "local"))[0] == 403
