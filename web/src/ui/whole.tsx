/** The whole run: what it came to, by the rules of the summary, and what each closed loop did. */

import { useEffect, useState } from "react";
import { ask } from "../server";
import { useApp } from "../state";
import { clock, counted, figure, listed } from "../words";
import { At, Fact, Say, Section } from "./parts";

interface HostStory {
  host: string;
  verdict: string;
  reason: string;
  causes: string[];
}

interface LoopStory {
  name: string;
  level: string;
  duty: string;
  now: string;
  steps: { time: number; words: string; event: string }[];
}

/** As `phalanx.console.story.RunStory` writes it. */
export interface Story {
  summary: {
    ended_s: number;
    reason: string;
    hosts: HostStory[];
    response: Record<string, number | null>;
    auctions: number;
    awarded: number;
    failed_auctions: number;
    limits: { lifted: number | null }[];
    placements: unknown[];
    messages: Record<string, number>;
    lost: number;
    shed: number;
    returned: boolean | null;
    energy_wh: number | null;
  } | null;
  loops: LoopStory[];
}

let inside: Story | undefined;
/** Have a page with the log inside show this story. */
export const setStory = (story: Story): void => {
  inside = story;
};

/** The story of the run: inside the page, or asked of the server once the run has ended. */
function useStory(): Story | undefined {
  const { model, session } = useApp();
  const [story, setOwn] = useState(inside);
  const ended = model.world.ending !== undefined;
  useEffect(() => {
    if (inside || session.mode === "report" || !ended) return;
    void ask<Story>("api/story").then(({ ok, said }) => ok && setOwn(said as Story));
  }, [ended, session.mode]);
  return story;
}

export function ClosedLoops() {
  const loops = useStory()?.loops ?? [];
  if (!loops.length) return null;
  return (
    <Section title="Closed loops" note={counted(loops.length, "loop")} className="loops">
      <ul className="cards">
        {loops.map((loop) => (
          <li key={loop.name}>
            <span className="card-main">
              <span>
                <b>{loop.name}</b> <span className="sub">{loop.level}: {loop.duty}</span>
              </span>
              <span className="sub">
                at the end: <Say text={loop.now} />
              </span>
              {loop.steps.slice(-4).map((step) => (
                <span key={step.event} className="sub">
                  <At time={step.time} />{" "}
                  <Fact of={step.event}>
                    <Say text={step.words} />
                  </Fact>
                </span>
              ))}
            </span>
          </li>
        ))}
      </ul>
    </Section>
  );
}

export function Summary() {
  const { model } = useApp();
  const summary = useStory()?.summary;
  if (!summary) return null;
  const { response } = summary;
  const after = (name: string) => (response[name] == null ? "never" : `after ${figure(response[name])} s`);
  const attackers = response.attackers ?? 0;
  const sent = Object.values(summary.messages).reduce((all, count) => all + count, 0);
  const rows: [string, string][] = [
    ["ended", `${summary.reason} at ${clock(summary.ended_s)}`],
    ...(attackers > 0
      ? ([
          ["alarm", after("alarm_after_s")],
          ["first limit", after("throttle_after_s")],
          ["attackers named", after("named_after_s")],
          ["last block", after("blocked_after_s")],
          ["limited", `${response.attackers_limited} of ${attackers} attackers, ${response.users_limited} of ${response.users} users`],
        ] as [string, string][])
      : []),
    ["auctions", `${summary.auctions} called, ${summary.awarded} awarded, ${summary.failed_auctions} without a winner`],
    ["measures", `${summary.limits.length} applied, ${summary.limits.filter((limit) => limit.lifted !== null).length} lifted`],
    ["functions", counted(summary.placements.length, "instance")],
    ["messages", `${sent.toLocaleString("en")} sent, ${summary.lost} lost, ${summary.shed} shed`],
    ["resources", summary.returned === null ? "in use, as the attack is" : summary.returned ? "all given back" : "not all given back"],
    ...(summary.energy_wh == null ? [] : ([["energy", `${figure(summary.energy_wh)} Wh`]] as [string, string][])),
  ];
  return (
    <Section title="The whole run" note="by the rules of the summary" className="whole">
      {summary.hosts
        .filter((host) => host.verdict !== "no attack")
        .map((host) => (
          <p key={host.host}>
            {host.reason}
            {host.causes.length > 0 && ` ${listed(host.causes, 6)}`}
          </p>
        ))}
      <dl className="record">
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{name === "ended" ? <Fact of={model.world.ending}>{value}</Fact> : value}</dd>
          </div>
        ))}
      </dl>
    </Section>
  );
}
