/** What an operator may do: each action is looked at before it is done. */

import type { App } from "../state";
import { ask } from "../server";
import { text } from "../store";
import type { Life } from "../world";
import { plain } from "../words";

export interface Preview {
  title: string;
  /** What would change, in sentences. */
  words: string[];
  action: string;
  body: Record<string, unknown>;
}

type Asked = (preview: Preview) => void;
let shown: Asked = () => {};
/** Have `asked` show previews. */
export const onPreview = (asked: Asked): void => {
  shown = asked;
};

export const preview = (asked: Preview): void => shown(asked);

/** The agent that keeps a measure, whose id begins with its name and incarnation. */
export const ownerOf = (life: Life): string => /^(.*)\.\d+:/.exec(text(life.begun.data, "measure"))?.[1] ?? text(life.begun.data, "pop");

export function release(app: App, life: Life): void {
  const data = life.begun.data;
  const owner = ownerOf(life);
  const sources = Array.isArray(data.sources) ? data.sources.length : 0;
  const rest = app.model.world.measures.at(app.time).filter((each) => each !== life && text(each.begun.data, "target") === text(data, "target"));
  preview({
    title: `Release ${plain(text(data, "effect"))}?`,
    words: [
      `${owner} lifts it at ${text(data, "pop")}: ${sources ? `the traffic of ${sources} sources` : "what it holds back"} passes again, at once.`,
      rest.length ? `${rest.length} more measures for ${text(data, "target")} stay in force.` : `No other measure for ${text(data, "target")} is in force: users may feel the attack.`,
      "If the attack goes on, the agents find it again and put a new measure into force by themselves.",
    ],
    action: "release",
    body: { agent: owner, measure: text(data, "measure") },
  });
}

/** Do it; return what the server answers, in words. */
export async function act(app: App, asked: Preview): Promise<string> {
  const { ok, status, said } = await ask(`api/actions/${asked.action}`, asked.body, app.session.csrf);
  if (!ok) throw new Error(said.detail ?? `the server answered ${status}`);
  return said.detail ?? "done";
}

/** Ask what would come of something: sentences, or why it would be refused. */
export async function foresee(app: App, what: string, body: unknown): Promise<{ words?: string[]; detail?: string }> {
  const { ok, status, said } = await ask<{ words: string[] }>(`api/${what}/preview`, body, app.session.csrf);
  return ok ? { words: said.words ?? [] } : { detail: said.detail ?? `the server answered ${status}` };
}
