// An agent that keeps its conversation, and what it did, in kinfold.
//
//   node agent.mjs HOME CONVERSATION "How many words are these?"
//
// It may be stopped anywhere and started on another device of the same person: it goes on with the
// conversation as it is there. A tool call that was carried out is not carried out again.

import { Client } from "./kinfold-client.mjs";

const AGENT = "word-counter";
const TOOLS = { count_words: ({ text }) => String(text.trim().split(/\s+/).length) };

const [home, conversation_id, text] = process.argv.slice(2);
const node = await Client.connect(home);
await say("user", text);
for (;;) {
  const { messages } = await node.call("sync.resume", { conversation_id });
  const { content, tool_calls } = model(messages);
  await say("assistant", content, { tool_calls });
  if (!tool_calls) {
    console.log(content);
    break;
  }
  for (const { id, name, arguments: given } of tool_calls) {
    const result = await once(`${conversation_id}/${id}`, () => TOOLS[name](given));
    await say("tool", result, { tool_use_id: id });
  }
}
node.close();

/** Records a turn; it is durable when this resolves. */
async function say(role, content, more = {}) {
  await node.call("sync.record_turn", { conversation_id, role, content, ...more });
}

/**
 * Does something under the lease of this agent, unless the ledger says that it has happened.
 *
 * No two devices do it at the same time, and a device that lost the lease meanwhile is stopped by the
 * fence. What was begun and not said to have ended is done again.
 */
async function once(run_id, effect) {
  const { epoch } = await node.call("lease.acquire", { agent_id: AGENT });
  const record = (status, payload) =>
    node.call("sync.record_intent", { agent_id: AGENT, run_id, epoch, status, payload });
  try {
    const said = await record("pending", {});
    if (said.reason === "AlreadyCommitted") {
      const { runs } = await node.call("sync.intents", { agent_id: AGENT, run_id });
      return runs[0].intents[0].payload.result;
    }
    const fence = await node.call("sync.fence_check", { agent_id: AGENT, run_id, epoch });
    if (!said.recorded || !fence.may_dispatch) throw new Error(fence.message);
    const result = await effect();
    await record("committed", { result });
    return result;
  } finally {
    await node.call("lease.release", { agent_id: AGENT, epoch });
  }
}

/** Stands in for a language model: asks for a tool, and says what the tool said. */
function model(messages) {
  const last = messages.at(-1);
  if (last.role === "tool") return { content: `That is ${last.content} words.` };
  const call = { id: `call-${messages.length}`, name: "count_words", arguments: { text: last.content } };
  return { content: "I will count them.", tool_calls: [call] };
}
