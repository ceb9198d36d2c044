// The server's routes, with the key of this tab.

const KEY = "taskstore-key";
export class Locked extends Error {}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export async function request(method, path, body, signal) {
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const sent = body === undefined ? undefined : JSON.stringify(body);
  const answer = await fetch(path, { method, headers, body: sent, signal, cache: "no-store", credentials: "omit" });
  if (answer.ok) return answer;
  const text = await answer.text();
  if (answer.status === 401) throw new Locked("The server does not take this key");
  throw new Error(reason(text) || `${method} ${path}: status ${answer.status}`);
}

export const json = async (method, path, body) => (await request(method, path, body)).json();

export const task = (name) => `v1/taskstore/tasks/${name.split("/").map(encodeURIComponent).join("/")}`;

function reason(text) {
  try {
    const said = JSON.parse(text);
    return said.error?.message ?? said.message ?? text.slice(0, 300);
  } catch {
    return text.slice(0, 300);
  }
}

// Events of a stream, parsed, until it ends; an error in it is thrown.
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message ?? String(event.error));
      yield event;
    }
  }
}
