"""An agent that keeps its conversation, and what it did, in kinfold.

    python3 agent.py HOME CONVERSATION "How many words are these?"

It may be stopped anywhere and started on another device of the same person: it goes on with the
conversation as it is there. A tool call that was carried out is not carried out again.
"""

import sys

from kinfold_client import Client

AGENT = "word-counter"


def main(home, conversation, text):
    with Client(home) as node:
        say(node, conversation, "user", text)
        while True:
            resumed = node.call("sync.resume", conversation_id=conversation)
            turn = model(resumed["messages"])
            say(node, conversation, "assistant", turn["content"], tool_calls=turn["tool_calls"])
            if not turn["tool_calls"]:
                print(turn["content"])
                return
            for call in turn["tool_calls"]:
                tool = TOOLS[call["name"]]
                result = once(node, f"{conversation}/{call['id']}", lambda: tool(**call["arguments"]))
                say(node, conversation, "tool", result, tool_use_id=call["id"])


def say(node, conversation, role, content, **more):
    """Records a turn; it is durable when this returns."""
    more = {name: value for name, value in more.items() if value}
    node.call("sync.record_turn", conversation_id=conversation, role=role, content=content, **more)


def once(node, run, effect):
    """Does something under the lease of this agent, unless the ledger says that it has happened.

    No two devices do it at the same time, and a device that lost the lease meanwhile is stopped by
    the fence. What was begun and not said to have ended is done again.
    """
    epoch = node.call("lease.acquire", agent_id=AGENT)["epoch"]
    try:
        said = record(node, run, epoch, "pending")
        if said.get("reason") == "AlreadyCommitted":
            done = node.call("sync.intents", agent_id=AGENT, run_id=run)["runs"][0]
            return done["intents"][0]["payload"]["result"]
        fence = node.call("sync.fence_check", agent_id=AGENT, run_id=run, epoch=epoch)
        if not (said["recorded"] and fence["may_dispatch"]):
            raise RuntimeError(fence["message"])
        result = effect()
        record(node, run, epoch, "committed", result=result)
        return result
    finally:
        node.call("lease.release", agent_id=AGENT, epoch=epoch)


def record(node, run, epoch, status, **payload):
    """Says in the ledger what becomes of a run; the answer tells what stands against it."""
    return node.call(
        "sync.record_intent", agent_id=AGENT, run_id=run, epoch=epoch, status=status, payload=payload
    )


def model(messages):
    """Stands in for a language model: asks for a tool, and says what the tool said."""
    last = messages[-1]
    if last["role"] == "tool":
        return {"content": f"That is {last['content']} words.", "tool_calls": []}
    call = {"id": f"call-{len(messages)}", "name": "count_words", "arguments": {"text": last["content"]}}
    return {"content": "I will count them.", "tool_calls": [call]}


TOOLS = {"count_words": lambda text: str(len(text.split()))}

if __name__ == "__main__":
    main(*sys.argv[1:])
