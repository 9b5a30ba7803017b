// Asks the REST surface. The key, where one is needed, lives in this tab only.

const KEY = "joulegate-key";
const REFUSAL = "joulegate-refusal";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => {
    sessionStorage.removeItem(REFUSAL);
    sessionStorage.setItem(KEY, value);
  },
  /** Why the last one was refused; null: none was. */
  refusal: () => sessionStorage.getItem(REFUSAL),
  refuse: (why) => {
    sessionStorage.removeItem(KEY);
    sessionStorage.setItem(REFUSAL, why);
  },
  forget: () => sessionStorage.removeItem(KEY),
};

/** The JSON of a path below /v1. Throws ApiError; status 0: the proxy cannot be reached. */
export async function ask(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  if (key.get() && !/^[\x21-\x7e]+$/.test(key.get())) throw new ApiError(401, "it has characters that no key has.");
  const headers = key.get() ? { authorization: `Bearer ${key.get()}` } : {};
  let answer;
  try {
    answer = await fetch(`/v1/${path}${query ? "?" + query : ""}`, { headers });
  } catch {
    throw new ApiError(0, "joulegate cannot be reached");
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new ApiError(answer.status, body?.error?.message ?? `HTTP ${answer.status}`);
  return body;
}
