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
    """Does something, unless a run of that name is recorded on any device this one has heard of.

    Two devices that are apart may both do it: where that matters, it is done under a lease.
    """
    done = node.call("sync.get", surface="run", id=run)
    if done:
        return done["payload"]["result"]
    result = effect()
    node.call("sync.append", surface="run", key=run, payload={"agent": AGENT, "result": result})
    return result


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
