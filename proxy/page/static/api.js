// Asks the REST surface. The key, where one is needed, lives in this tab only.

const KEY = "joulegate-key";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** The JSON of a path below /v1/energy. Throws ApiError; status 0: the proxy cannot be reached. */
export async function ask(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  const headers = key.get() ? { authorization: `Bearer ${key.get()}` } : {};
  let answer;
  try {
    answer = await fetch(`/v1/energy/${path}${query ? "?" + query : ""}`, { headers });
  } catch {
    throw new ApiError(0, "joulegate cannot be reached");
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new ApiError(answer.status, body?.error?.message ?? `HTTP ${answer.status}`);
  return body;
}
