// Requests to the server of this page; every failure is an ApiError with a kind and a sentence.

export class ApiError extends Error {
  constructor(kind, sentence) {
    super(sentence);
    this.kind = kind;
  }
}

async function answer(request) {
  let response;
  try {
    response = await request;
  } catch {
    throw new ApiError("away", "The server does not answer. Was `urnet review` stopped?");
  }
  let body = null;
  try {
    body = await response.json();
  } catch {
    body = {};
  }
  if (!response.ok) {
    throw new ApiError(body.kind ?? "fault", body.error ?? `The server has failed (${response.status}).`);
  }
  return body;
}

export function get(path, values = {}) {
  const query = new URLSearchParams(values).toString();
  return answer(fetch(`/api/${path}${query ? `?${query}` : ""}`, { cache: "no-store" }));
}

export function post(path, body) {
  return answer(
    fetch(`/api/${path}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    }),
  );
}
