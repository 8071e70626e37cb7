// Calls the service. The token stands in sessionStorage, which ends with the tab, and travels in a header alone.

export const API = "api/v1/epoch-training";
const KEY = "dateshard-token";

export const hasToken = () => sessionStorage.getItem(KEY) !== null;
export const keepToken = (token) => sessionStorage.setItem(KEY, token);
export const forgetToken = () => sessionStorage.removeItem(KEY);

// What the server refused, in its own words; `errors` name fields.
export class Problem extends Error {
  constructor(status, details) {
    super(details.detail ?? `the server answered ${status}`);
    this.status = status;
    this.errors = details.errors ?? [];
  }
}

// Sends a request; a token that is refused is forgotten, and the page asks for another.
export async function send(method, path, { body, headers = {}, signal } = {}) {
  const given = { ...headers, Authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
  if (body !== undefined) given["Content-Type"] = "application/json";
  const asked = { method, headers: given, signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body) };
  const answer = await fetch(`${API}${path}`, asked).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("The server did not answer. Ask again when it is back.");
  });
  if (answer.ok) return answer;
  const problem = new Problem(answer.status, await answer.json().catch(() => ({})));
  if (answer.status === 401) dispatchEvent(new CustomEvent("token-refused", { detail: problem.message }));
  throw problem;
}

export async function call(method, path, options) {
  return (await send(method, path, options)).json();
}

export const segment = encodeURIComponent;
