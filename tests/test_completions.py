"""Plain completions with a chat template of one's own, over HTTP."""

import asyncio

from orchestrator.chat_template import ChatTemplate
from orchestrator.endpoints import Conversation
from orchestrator.policy_client import PolicyClient, Sampling
from orchestrator.records import Message
from scripted_policy import ScriptedPolicy

TEMPLATE = ChatTemplate("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}assistant:", "</s>")


def test_with_a_template_a_plain_completion_is_asked_for_and_read() -> None:
    choice = {"text": " go north", "logprobs": {"token_logprobs": [-0.5, -0.1]}, "token_ids": [4, 5]}
    reply = {"choices": [choice], "usage": {"prompt_tokens": 30, "completion_tokens": 2}}
    with ScriptedPolicy(lambda messages, number: (200, reply)) as server:

        async def main() -> None:
            async with PolicyClient(server.url, "m", template=TEMPLATE) as client:
                messages = [Message(role="user", content="Where to?")]
                answer = await client.chat(messages, Sampling(stop=["\n"], record="ids"), 3, Conversation("task"))
            assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == (" go north", 30, 2)
            assert (answer.logprobs, answer.token_ids) == ([-0.5, -0.1], [4, 5])

        asyncio.run(main())
    (asked,) = server.requests
    assert server.paths == ["/v1/completions"]
    assert (asked["prompt"], asked["stop"], asked["logprobs"]) == ("user: Where to?</s>assistant:", ["\n"], 0)
    assert "messages" not in asked
