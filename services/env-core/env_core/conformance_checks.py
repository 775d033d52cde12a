"""The checks of the conformance kit, in the order in which they run. A function's name is what it checks."""
# ruff: noqa: D103 - the names say it

import json
import time
from typing import Any
from urllib.parse import quote

from env_core.conformance import STEPS_PLAYED, Service, expect, shown, well_formed


def check_the_service_is_healthy_and_ready(service: Service) -> None:
    expect(service.good("GET", "/health") == {"status": "healthy"}, "GET /health does not say healthy")
    expect(service.good("GET", "/ready") == {"ready": True}, "GET /ready does not say ready")


def check_tasks_are_listed_alike_by_all_task_calls(service: Service) -> None:
    names = service.good("GET", "/list_environments")
    expect(isinstance(names, list) and len(names) == 1, f"GET /list_environments answers {names}, not one name")
    service.env = names[0]
    splits = service.good("GET", f"/{service.env}/splits")
    expect(bool(splits), "there is no split")
    expect(all(set(s) == {"name", "type"} and s["type"] in ("train", "validation", "test") for s in splits), f"the splits are {splits}")
    service.split = splits[0]["name"]
    body = {"split": service.split}
    service.tasks = service.good("POST", f"/{service.env}/tasks", body)["tasks"]
    expect(len(service.tasks) >= 1, f"the split {service.split} has no tasks")
    keys = {"task_id", "index", "task_type", "max_steps"}
    expect(all(keys <= set(task) for task in service.tasks), f"a task lacks one of {sorted(keys)}")
    expect(service.good("POST", f"/{service.env}/num_tasks", body)["num_tasks"] == len(service.tasks), "num_tasks counts otherwise")
    last = len(service.tasks) - 1
    one = service.good("POST", f"/{service.env}/task", {**body, "index": last})["task"]
    expect(one == service.tasks[last], "task and tasks differ")
    some = service.good("POST", f"/{service.env}/task_range", {**body, "start": 0, "stop": 2})["tasks"]
    expect(some == service.tasks[:2], "task_range and tasks differ")


def check_the_pages_about_the_service_answer(service: Service) -> None:
    action = service.good("GET", "/schema")["action"]
    expect(action.get("required") == ["action"], f"the action's required fields are {action.get('required')}, not exactly action")
    expect({"name", "description"} <= set(service.good("GET", "/metadata")), "GET /metadata lacks a name or a description")
    expect({"/reset", "/step", "/state"} <= set(service.good("GET", "/openapi.json")["paths"]), "OpenAPI lacks /reset, /step or /state")
    expect(b"eto_env_sessions" in service.good("GET", "/metrics"), "GET /metrics does not count sessions")


def check_a_task_is_reset_by_its_id_and_by_its_place(service: Service) -> None:
    by_id = service.reset(0, episode_id="mine")
    by_place = service.good("POST", "/reset", {"split": service.split, "index": 0})
    service.opened.append(by_place["metadata"]["session_id"])
    expect(shown(by_id) == shown(by_place), "the two resets show different things")
    expect(by_id["metadata"]["episode_id"] == "mine", "the episode_id is not given back")
    expect((by_id["reward"], by_id["metadata"]["step"], by_id["metadata"]["score"]) == (0, 0, 0), "an episode does not begin at 0")


def check_the_same_actions_show_the_same(service: Service) -> None:
    actions = service.actions()
    expect(service.play(0, actions) == service.play(0, actions), "an episode played twice shows different things")


def check_rewards_sum_to_the_score(service: Service) -> None:
    seen = service.play(0, service.actions())
    total = sum(reply["reward"] for reply in seen)
    expect(abs(total - seen[-1]["metadata"]["score"]) < 1e-9, f"rewards sum to {total}, the score is {seen[-1]['metadata']['score']}")
    expect([reply["metadata"]["step"] for reply in seen] == list(range(len(seen))), "steps are not counted one by one")


def check_interleaved_sessions_do_not_touch_each_other(service: Service) -> None:
    actions = service.actions()
    alone = service.play(0, actions)
    replies = [service.reset(0) for _ in range(3)]
    streams = [[shown(reply)] for reply in replies]
    for action in actions:
        for i, reply in enumerate(replies):
            if not reply["done"]:
                replies[i] = service.step(reply, action)
                streams[i].append(shown(replies[i]))
    expect(streams == [alone] * 3, "interleaved episodes show other things than one alone")


def check_an_action_is_an_object_or_a_text(service: Service) -> None:
    action = service.actions()[0]
    replies = [service.step(service.reset(0), given) for given in (action, {"action": action})]
    expect(shown(replies[0]) == shown(replies[1]), "the two forms of an action do different things")


def check_a_repeated_request_is_carried_out_once(service: Service) -> None:
    reply = service.reset(0)
    action = service.actions()[0]
    first, second = (service.step(reply, action, request_id="once") for _ in range(2))
    expect(first == second, "a repeated request_id gets another reply")
    session_id = reply["metadata"]["session_id"]
    expect(service.good("GET", f"/state?session_id={session_id}")["step_count"] == 1, "a repeated request_id steps twice")


def check_a_fork_begins_in_the_same_state(service: Service) -> None:
    actions = service.actions()
    reply = service.reset(0)
    if len(actions) > 1:
        reply = service.step(reply, actions[0])
    if reply["done"]:
        return
    fork = service.good("POST", f"/sessions/{reply['metadata']['session_id']}/fork", {})
    service.opened.append(fork["metadata"]["session_id"])
    well_formed(fork)
    expect(fork["metadata"]["session_id"] != reply["metadata"]["session_id"], "a fork is not a new session")
    expect(fork["observation"] == reply["observation"], "a fork shows another observation")
    expect(shown(service.step(fork, actions[-1])) == shown(service.step(reply, actions[-1])), "a fork goes on otherwise")


def check_batches_answer_each_item(service: Service) -> None:
    task_id = service.tasks[0]["task_id"]
    begun = service.good("POST", "/batch/reset", {"resets": [{"task_id": task_id}, {"task_id": "\u0000"}, {"task_id": task_id}]})["results"]
    expect([item["status"] for item in begun] == [200, 404, 200], f"/batch/reset answers {[item['status'] for item in begun]}")
    ids = [item["reply"]["metadata"]["session_id"] for item in begun if item["status"] == 200]
    service.opened += ids
    action = service.actions()[0]
    taken = service.good("POST", "/batch/step", {"steps": [{"session_id": i, "action": action} for i in [*ids, "nope"]]})["results"]
    expect([item["status"] for item in taken] == [200, 200, 404], f"/batch/step answers {[item['status'] for item in taken]}")
    expect(shown(taken[0]["reply"]) == shown(taken[1]["reply"]), "two items with the same action show different things")


def check_an_episode_ends_at_its_step_limit(service: Service) -> None:
    reply = service.step(service.reset(0, max_steps=1), service.actions()[0])
    expect(reply["done"], "an episode of one step goes on after it")
    session_id = reply["metadata"]["session_id"]
    service.refused("POST", "/step", 409, "episode_done", {"session_id": session_id, "action": "a"})
    expect(service.good("GET", f"/state?session_id={session_id}")["done"], "the state of an ended episode cannot be read")
    again = service.good("POST", "/reset", {"task_id": service.tasks[0]["task_id"], "session_id": session_id})
    expect((again["metadata"]["session_id"], again["metadata"]["step"]) == (session_id, 0), "a session cannot be reset")


def check_odd_actions_are_answered(service: Service) -> None:
    for action in ("no such action", "\u0001\n", "\\\"'", "\U0001f600", "x" * 8192):
        service.step(service.reset(0), action)


def check_a_deleted_session_is_gone(service: Service) -> None:
    session_id = service.reset(0)["metadata"]["session_id"]
    listed = [state["session_id"] for state in service.good("GET", "/sessions")["sessions"]]
    expect(session_id in listed, "GET /sessions lacks an open session")
    expect(service.call("DELETE", f"/sessions/{session_id}")[0] == 204, "DELETE does not answer 204")
    service.refused("GET", f"/state?session_id={session_id}", 404, "unknown_session")


def check_bad_requests_are_refused_in_the_protocols_words(service: Service) -> None:
    session_id = service.reset(0)["metadata"]["session_id"]
    task_id = service.tasks[0]["task_id"]
    bad: list[tuple[str, Any, int, str]] = [
        ("/reset", {}, 422, "invalid_request"),
        ("/reset", {"task_id": "\u0000no such task"}, 404, "unknown_task"),
        ("/reset", {"split": "\u0000no such split", "index": 0}, 404, "unknown_split"),
        ("/reset", {"split": service.split, "index": 10**9}, 404, "unknown_task"),
        ("/reset", {"split": service.split, "index": -1}, 404, "unknown_task"),
        ("/reset", {"task_id": task_id, "more": 1}, 422, "invalid_request"),
        ("/reset", {"task_id": task_id, "seed": -1}, 422, "invalid_request"),
        ("/reset", {"task_id": task_id, "max_steps": 1001}, 422, "invalid_request"),
        ("/step", {"session_id": "nope", "action": "a"}, 404, "unknown_session"),
        ("/step", {"session_id": session_id}, 422, "invalid_request"),
        ("/step", {"session_id": session_id, "action": " "}, 422, "invalid_request"),
        ("/step", {"session_id": session_id, "action": "a" * 8193}, 422, "invalid_request"),
        ("/step", {"session_id": session_id, "action": {"action": "a", "more": 1}}, 422, "invalid_request"),
        ("/step", {"session_id": session_id, "action": "a" * 2_000_000}, 413, "body_too_large"),
        ("/sessions/nope/fork", {}, 404, "unknown_session"),
    ]
    for path, body, status, code in bad:
        service.refused("POST", path, status, code, body)
    for raw in (b"{", b"\xff", b"[" * 100_000):
        service.refused("POST", "/step", 422, "invalid_request", raw=raw)
    service.refused("GET", "/state?session_id=nope", 404, "unknown_session")
    expect(service.good("GET", f"/state?session_id={session_id}")["step_count"] == 0, "bad requests changed a session")


def check_openenvs_websocket_plays_an_episode(service: Service) -> None:
    from websockets.sync.client import connect

    headers = {"Authorization": f"Bearer {service.token}"} if service.token else None
    before = {state["session_id"] for state in service.good("GET", "/sessions")["sessions"]}
    with connect(service.url.replace("http", "ws", 1) + "/ws", additional_headers=headers, max_size=None, proxy=None) as socket:

        def ask(message: Any) -> Any:
            socket.send(message if isinstance(message, str) else json.dumps(message))
            return json.loads(socket.recv(timeout=300))

        expect(ask("{")["data"]["code"] == "INVALID_JSON", "a frame that is no JSON is not answered INVALID_JSON")
        expect(ask({"type": "nonsense"})["data"]["code"] == "UNKNOWN_TYPE", "an unknown frame is not answered UNKNOWN_TYPE")
        begun = ask({"type": "reset", "data": {"task_id": service.tasks[0]["task_id"]}})
        expect(begun["type"] == "observation", f"a reset is answered {str(begun)[:200]}")
        well_formed(begun["data"])
        stepped = ask({"type": "step", "data": {"action": service.actions()[0]}})
        expect(stepped["type"] == "observation" and stepped["data"]["metadata"]["step"] == 1, f"a step is answered {str(stepped)[:200]}")
        expect(ask({"type": "state"})["data"]["step_count"] == 1, "the state of the connection's session is another one")
        session_id = begun["data"]["metadata"]["session_id"]
    service.clean()
    for _ in range(100):
        left = {state["session_id"] for state in service.good("GET", "/sessions")["sessions"]} - before
        if session_id not in left:
            return
        time.sleep(0.05)
    expect(False, "a session outlives its connection")


def check_json_rpc_is_answered(service: Service) -> None:
    expect(service.good("POST", "/mcp", {}).get("jsonrpc") == "2.0", "POST /mcp does not answer with JSON-RPC 2.0")


def check_a_page_is_shown_or_refused(service: Service) -> None:
    session_id = service.reset(0)["metadata"]["session_id"]
    status, _, headers = service.call("GET", f"/sessions/{session_id}/page")
    expect(status in (200, 501), f"GET /sessions/ID/page answered {status}")
    expect(status == 501 or "sandbox" in headers.get("content-security-policy", ""), "a page comes without a policy that keeps it still")


def check_an_expert_plays_or_is_refused(service: Service) -> None:
    task_id = service.tasks[0]["task_id"]
    status, content, _ = service.call("GET", f"/tasks/{quote(task_id, safe='')}/expert")
    expect(status in (200, 501), f"the expert answered {status}")
    if status == 200:
        expect(set(content) == {"task_id", "actions", "source"}, f"the expert's answer has the keys {sorted(content)}")
        expect(len(service.play(0, content["actions"][:STEPS_PLAYED])) > 1, "the expert's actions cannot be played")
