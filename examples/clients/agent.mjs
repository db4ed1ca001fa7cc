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
 * Does something, unless a run of that name is recorded on any device this one has heard of.
 *
 * Two devices that are apart may both do it: where that matters, it is done under a lease.
 */
async function once(run, effect) {
  const done = await node.call("sync.get", { surface: "run", id: run });
  if (done) return done.payload.result;
  const result = await effect();
  await node.call("sync.append", { surface: "run", key: run, payload: { agent: AGENT, result } });
  return result;
}

/** Stands in for a language model: asks for a tool, and says what the tool said. */
function model(messages) {
  const last = messages.at(-1);
  if (last.role === "tool") return { content: `That is ${last.content} words.` };
  const call = { id: `call-${messages.length}`, name: "count_words", arguments: { text: last.content } };
  return { content: "I will count them.", tool_calls: [call] };
}
