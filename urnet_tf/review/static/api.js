// Requests to the server of this page; every failure is an ApiError with a kind and a sentence.

export class ApiError extends Error {
  constructor(kind, sentence) {
    super(sentence);
    this.kind = kind;
  }
}

async function answer(request) {
  const away = new ApiError("away", "The server does not answer. Was `urnet review` stopped?");
  const response = await request.catch(() => { throw away; });
  const body = await response.json().catch(() => {
    if (response.ok) throw away; // it broke off in the midst of an answer
    return {};
  });
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
