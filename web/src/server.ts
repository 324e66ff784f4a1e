/** Calls of the server that serves the page. */

/** What the server says; status 0: it did not answer. */
export interface Answer<T> {
  ok: boolean;
  status: number;
  /** Of the JSON in the answer, `detail` says why not. */
  said: Partial<T> & { detail?: string };
}

/** Ask the server, with `body` as a POST. It never throws: a server that is away is an answer, too. */
export async function ask<T>(path: string, body?: unknown, csrf = ""): Promise<Answer<T>> {
  const post = { method: "POST", headers: { "content-type": "application/json", "x-csrf": csrf }, body: JSON.stringify(body) };
  try {
    const answer = await fetch(path, body === undefined ? undefined : post);
    const said = (await answer.json().catch(() => ({}))) as Answer<T>["said"];
    return { ok: answer.ok, status: answer.status, said };
  } catch {
    return { ok: false, status: 0, said: { detail: "the server does not answer" } as Answer<T>["said"] };
  }
}
