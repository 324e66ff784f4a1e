/** Traffic of one host over time, with what happened marked on it. */

import { scaleLinear } from "d3-scale";
import { area, line } from "d3-shape";
import { useMemo } from "react";
import { useApp, useDerived } from "../state";
import { type LogEvent, lastAt, text } from "../store";
import type { HostInfo, Sample } from "../world";
import { clock, figure, plain } from "../words";
import { shapeFact, useWidth } from "./parts";

const HEIGHT = 172;
const TOP = 34;
const LEFT = 44;
const BOTTOM = 20;

/** Samples between two times, at most two for each pixel: the peaks stay. */
function thinned(samples: Sample[], from: number, to: number, width: number): Sample[] {
  const begin = Math.max(0, lastAt(samples, from));
  const end = Math.min(samples.length, lastAt(samples, to) + 2);
  const step = Math.ceil((end - begin) / Math.max(width, 1));
  if (step <= 1) return samples.slice(begin, end);
  const found: Sample[] = [];
  for (let at = begin; at < end; at += step) {
    let most = samples[at];
    let least = samples[at];
    for (let i = at; i < Math.min(at + step, end); i++) {
      if (samples[i].malicious > most.malicious) most = samples[i];
      if (samples[i].legitimate < least.legitimate) least = samples[i];
    }
    found.push(...(most === least ? [most] : most.time < least.time ? [most, least] : [least, most]));
  }
  return found;
}

export function TrafficChart({ host }: { host: HostInfo }) {
  const app = useApp();
  const { model, from, to, time } = app;
  const [ref, width] = useWidth<HTMLDivElement>();
  const samples = useDerived(() => thinned(model.world.traffic.get(host.name) ?? [], from, to, width), model, [host, from, to, width]);
  const marks = useDerived(() => marksOf(app.model.world.alarms.all.map((l) => l.begun), model.store.of("measure.applied"), host), model, [host]);
  const most = useMemo(() => Math.max(1e-6, ...samples.map((s) => Math.max(s.wanted, s.legitimate, s.malicious))), [samples]);
  const x = scaleLinear([from, to], [LEFT, width - 8]);
  const y = scaleLinear([0, most * 1.05], [HEIGHT - BOTTOM, TOP]);
  const drawn = useMemo(() => {
    const at = (s: Sample) => x(s.time);
    return {
      users: area<Sample>().x(at).y0(y(0)).y1((s) => y(s.legitimate))(samples) ?? "",
      usersLine: line<Sample>().x(at).y((s) => y(s.legitimate))(samples) ?? "",
      wanted: line<Sample>().x(at).y((s) => y(s.wanted))(samples) ?? "",
      attack: line<Sample>().x(at).y((s) => y(s.malicious))(samples) ?? "",
    };
  }, [samples, width, from, to, most]);
  const attacked = samples.some((s) => s.malicious > 0);
  const visible = marks.filter((mark) => mark.event.time >= from && mark.event.time <= to);
  const now = samples[Math.max(0, lastAt(samples, time))];
  return (
    <div ref={ref} className="chart">
      <svg
        width={width}
        height={HEIGHT}
        role="group"
        aria-label={`Traffic of ${host.name} in MB/s from ${clock(from)} to ${clock(to)}`}
        onClick={(event) => {
          const box = event.currentTarget.getBoundingClientRect();
          const at = x.invert(event.clientX - box.left);
          if (at >= from && at <= to) app.go({ time: at });
        }}
      >
        {y.ticks(3).map((tick) => (
          <g key={tick} className="grid">
            <line x1={LEFT} x2={width - 8} y1={y(tick)} y2={y(tick)} />
            <text x={LEFT - 6} y={y(tick) + 4} textAnchor="end">
              {figure(tick)}
            </text>
          </g>
        ))}
        <text className="axis" x={2} y={12}>
          MB/s
        </text>
        {x.ticks(Math.max(2, Math.min(8, width / 110))).map((tick) => (
          <text key={tick} className="axis" x={x(tick)} y={HEIGHT - 5} textAnchor={x(tick) > width - 26 ? "end" : "middle"}>
            {tick < 120 ? `${figure(tick)} s` : clock(tick).replace(/\.0$/, "")}
          </text>
        ))}
        <path className="users-area" d={drawn.users} />
        <path className="users-line" d={drawn.usersLine} />
        <path className="wanted-line" d={drawn.wanted} />
        {attacked && <path className="attack-line" d={drawn.attack} />}
        <line className="cursor" x1={x(time)} x2={x(time)} y1={TOP - 6} y2={HEIGHT - BOTTOM} />
        {["alarm", "measure"].flatMap((kind) => declutter(visible.filter((mark) => mark.kind === kind), (mark) => x(mark.event.time))).map(({ item, more }) => (
          <g key={item.event.id} {...shapeFact(app, item.event, `${item.kind} at ${clock(item.event.time)}: ${plain(item.event.text)}`)}>
            <title>{`${clock(item.event.time)} ${plain(item.event.text)}${more ? ` (and ${more} more here)` : ""}`}</title>
            <rect x={x(item.event.time) - 9} y={item.kind === "alarm" ? 0 : 15} width={18} height={15} fill="transparent" />
            <line className={`mark-line ${item.kind}`} x1={x(item.event.time)} x2={x(item.event.time)} y1={item.kind === "alarm" ? 14 : 27} y2={HEIGHT - BOTTOM} />
            <Mark kind={item.kind} x={x(item.event.time)} y={item.kind === "alarm" ? 8 : 22} size={5.5} />
          </g>
        ))}
      </svg>
      <p className="legend">
        <span className="key users">users get {now ? figure(now.legitimate) : "?"}</span>
        <span className="key wanted">users ask for {now ? figure(now.wanted) : "?"}</span>
        {attacked && <span className="key attack">attack that arrives {now ? figure(now.malicious) : "?"}</span>}
        <span>MB/s at {clock(time)}</span>
      </p>
    </div>
  );
}

type MarkKind = "alarm" | "measure" | "award" | "trust" | "fault";

function marksOf(alarms: readonly LogEvent[], measures: readonly LogEvent[], host: HostInfo): { kind: MarkKind; event: LogEvent }[] {
  const about = (event: LogEvent) => text(event.data, "belief").includes(host.address) || text(event.data, "belief").includes(`>${host.name}`);
  return [
    ...alarms.filter(about).map((event) => ({ kind: "alarm" as const, event })),
    ...measures.filter((event) => text(event.data, "effect").includes(host.address)).map((event) => ({ kind: "measure" as const, event })),
  ].sort((a, b) => a.event.time - b.event.time);
}

/** One mark for those that would cover each other. */
export function declutter<M>(marks: M[], x: (mark: M) => number, gap = 15): { item: M; more: number }[] {
  const found: { item: M; more: number }[] = [];
  let last = -Infinity;
  for (const item of marks) {
    if (x(item) - last < gap && found.length) found[found.length - 1].more++;
    else {
      found.push({ item, more: 0 });
      last = x(item);
    }
  }
  return found;
}

/** Kinds differ by shape as well as by colour. */
export function Mark({ kind, x, y, size = 6 }: { kind: MarkKind; x: number; y: number; size?: number }) {
  const d = {
    alarm: `M${x} ${y - size}L${x + size} ${y + size * 0.8}L${x - size} ${y + size * 0.8}Z`,
    measure: `M${x - size * 0.8} ${y - size * 0.8}h${size * 1.6}v${size * 1.6}h${-size * 1.6}Z`,
    award: `M${x} ${y - size}L${x + size} ${y}L${x} ${y + size}L${x - size} ${y}Z`,
    trust: `M${x - size * 0.8} ${y}a${size * 0.8} ${size * 0.8} 0 1 0 ${size * 1.6} 0a${size * 0.8} ${size * 0.8} 0 1 0 ${-size * 1.6} 0Z`,
    fault: `M${x - size * 0.7} ${y - size * 0.7}L${x + size * 0.7} ${y + size * 0.7}M${x + size * 0.7} ${y - size * 0.7}L${x - size * 0.7} ${y + size * 0.7}`,
  }[kind];
  return <path className={`mark ${kind}`} d={d} />;
}
