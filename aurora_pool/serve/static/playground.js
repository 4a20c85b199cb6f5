// Sends a chat and shows the answer as it comes. What a model says is put in as text, never as markup.
"use strict";

const form = document.getElementById("chat");
const answer = document.getElementById("answer");
const told = document.getElementById("told");
const stop = document.getElementById("stop");
let sending = null;

function bodyOf(fields) {
  const messages = [{ role: "user", content: fields.get("message") }];
  if (fields.get("system")) {
    messages.unshift({ role: "system", content: fields.get("system") });
  }
  const body = { model: fields.get("model"), messages, stream: true, stream_options: { include_usage: true } };
  for (const name of ["temperature", "max_tokens"]) {
    if (fields.get(name)) {
      body[name] = Number(fields.get(name));
    }
  }
  return body;
}

async function* eventsOf(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return;
    }
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") {
        yield JSON.parse(line.slice(6));
      }
    }
  }
}

async function send() {
  const began = performance.now();
  let usage = null;
  answer.textContent = "";
  told.textContent = "Waiting…";
  const reply = await fetch(form.action, {
    method: "POST", signal: sending.signal, headers: { "Content-Type": "application/json" },
    body: JSON.stringify(bodyOf(new FormData(form))),
  });
  if (!reply.ok) {
    const content = await reply.json();
    throw new Error(content.error?.message ?? `HTTP ${reply.status}`);
  }
  for await (const event of eventsOf(reply)) {
    if (event.error) {
      throw new Error(event.error.message);
    }
    const delta = event.choices?.[0]?.delta;
    answer.textContent += delta?.reasoning ?? "";
    answer.textContent += delta?.content ?? "";
    usage = event.usage ?? usage;
  }
  const seconds = (performance.now() - began) / 1000;
  told.textContent = `Done in ${seconds.toFixed(1)} s` + (usage ? `: ${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out.` : ".");
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  sending?.abort();
  sending = new AbortController();
  stop.disabled = false;
  try {
    await send();
  } catch (error) {
    told.textContent = error.name === "AbortError" ? "Stopped." : `It failed: ${error.message}`;
  } finally {
    stop.disabled = true;
  }
});
stop.addEventListener("click", () => sending?.abort());
