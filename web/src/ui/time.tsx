/** Time: one slider over the whole run, live and past in one, with what happened above it. */

import { scaleLinear } from "d3-scale";
import { line } from "d3-shape";
import { useEffect, useMemo, useRef, useState } from "react";
import { useApp, useDerived } from "../state";
import type { LogEvent } from "../store";
import { clock } from "../words";
import { declutter, Mark } from "./chart";
import { Icon, shapeFact, useWidth } from "./parts";

const LANE = 17;
const LANES = ["alarm", "award", "measure", "trust"] as const;
const LANE_WORDS = { alarm: "alarms, faults", award: "awards", measure: "measures", trust: "trust" };
const SPEEDS = [1, 5, 20, 100];
const EDGE = 8;
/** Width of the names of the lanes, where there is room. */
const GUTTER = 100;

export function TimeBar() {
  const app = useApp();
  const { model, time, from, to, place, session } = app;
  const [ref, width] = useWidth<HTMLDivElement>();
  const [playing, setPlaying] = useState(false);
  const [speed, setSpeed] = useState(5);
  const state = useRef({ time, end: model.store.end });
  state.current = { time, end: model.store.end };
  const live = place.time === undefined && session.mode === "live" && !model.world.ending;

  useEffect(() => {
    if (!playing) return;
    let frame = 0;
    let before = performance.now();
    const turn = (now: number) => {
      const next = state.current.time + ((now - before) / 1000) * speed;
      before = now;
      if (next >= state.current.end) {
        setPlaying(false);
        app.go({ time: undefined }, true);
        return;
      }
      app.go({ time: next }, true);
      frame = requestAnimationFrame(turn);
    };
    frame = requestAnimationFrame(turn);
    return () => cancelAnimationFrame(frame);
  }, [playing, speed]);

  const marks = useDerived(() => {
    const { store, trust } = model;
    const faults = [...store.of("fault.injected"), ...store.of("agent.crashed"), ...store.of("link.changed")];
    const rows: { lane: number; kind: "alarm" | "award" | "measure" | "trust" | "fault"; event: LogEvent }[] = [
      ...model.world.alarms.all.map(({ begun }) => ({ lane: 0, kind: "alarm" as const, event: begun })),
      ...faults.map((event) => ({ lane: 0, kind: "fault" as const, event })),
      ...store.of("auction.awarded").map((event) => ({ lane: 1, kind: "award" as const, event })),
      ...store.of("measure.applied").map((event) => ({ lane: 2, kind: "measure" as const, event })),
      ...trust.blocks.map(({ event, standing }) => ({ lane: 3, kind: standing === "trusted" ? ("trust" as const) : ("fault" as const), event })),
    ];
    return LANES.map((_, lane) => rows.filter((row) => row.lane === lane).sort((a, b) => a.event.time - b.event.time));
  }, model, []);
  const gutter = width > 560 ? GUTTER : 0;
  const x = useMemo(() => scaleLinear([from, to], [gutter + EDGE, width - EDGE]), [from, to, width, gutter]);
  const attacks = useDerived(() => attackSpans(model.world.groups.filter((g) => g.malicious).flatMap((g) => model.world.sending.get(g.group) ?? []), model.store.end), model, []);
  const curve = useDerived(() => served(model.world.traffic, from, to, width), model, [from, to, width]);
  const lanes = LANES.filter((lane, at) => marks[at].length || lane !== "trust");
  const height = lanes.length * LANE + 6;
  const step = (to - from) / 200;

  const zoom = (factor: number) => {
    const half = ((to - from) * factor) / 2;
    const whole = Math.max(model.store.end, 1);
    const middle = Math.min(Math.max(time, half), Math.max(whole - half, half));
    if (half * 2 >= whole) app.go({ from: undefined, to: undefined });
    else app.go({ from: Math.max(0, middle - half), to: Math.min(whole, middle + half) });
  };

  return (
    <footer className="timebar" aria-label="Time">
      <div className="time-controls">
        <button type="button" className="icon-button" aria-label={playing ? "Pause" : "Play"} title={playing ? "Pause (space)" : "Play (space)"} data-play onClick={() => {
          if (!playing && place.time === undefined) app.go({ time: from }, true);
          setPlaying(!playing);
        }}>
          <Icon name={playing ? "pause" : "play"} />
        </button>
        <output className="clock" aria-label="Instant shown">{clock(time)}</output>
        <select aria-label="Speed of the replay" value={speed} onChange={(event) => setSpeed(Number(event.target.value))}>
          {SPEEDS.map((each) => (
            <option key={each} value={each}>{each}×</option>
          ))}
        </select>
        <span className="zoom" role="group" aria-label="Zoom of time">
          <button type="button" aria-label="Zoom in" title="Show less time" onClick={() => zoom(0.5)}>+</button>
          <button type="button" aria-label="Zoom out" title="Show more time" onClick={() => zoom(2)}>−</button>
          <button type="button" title="Show the whole run" onClick={() => app.go({ from: undefined, to: undefined })}>all</button>
        </span>
        <button type="button" className={`live${place.time === undefined ? " on" : ""}`} onClick={() => { setPlaying(false); app.go({ time: undefined }); }} title="Follow the end of the log">
          {session.mode === "live" && !model.world.ending ? (live ? "● Live" : "Go live") : "End"}
        </button>
      </div>
      <div className="lanes" ref={ref}>
        <svg width={width} height={height} role="group" aria-label="What happened over time">
          {attacks.map(([begin, end]) => (
            <rect key={begin} className="attack-span" x={x(Math.max(begin, from))} width={Math.max(2, x(Math.min(end, to)) - x(Math.max(begin, from)))} y={0} height={height}>
              <title>{`attackers send from ${clock(begin)} to ${clock(end)}`}</title>
            </rect>
          ))}
          <path className="served" d={line<[number, number]>().x((p) => x(p[0])).y((p) => height - 2 - p[1] * (height - 6))(curve) ?? ""} />
          {lanes.map((lane) => {
            const at = LANES.indexOf(lane);
            const y = lanes.indexOf(lane) * LANE + LANE / 2 + 3;
            const visible = marks[at].filter(({ event }) => event.time >= from && event.time <= to);
            return (
              <g key={lane}>
                {gutter > 0 && <text className="lane-name" x={gutter - 4} y={y + 4} textAnchor="end">{LANE_WORDS[lane]}</text>}
                {declutter(visible, ({ event }) => x(event.time), 9).map(({ item, more }) => (
                  <g key={item.event.id} {...shapeFact(app, item.event, `${LANE_WORDS[lane]}, ${clock(item.event.time)}`)} tabIndex={-1}>
                    <title>{`${clock(item.event.time)} ${item.event.text}${more ? ` (and ${more} more)` : ""}`}</title>
                    <Mark kind={item.kind} x={x(item.event.time)} y={y} size={more ? 5.5 : 4.5} />
                  </g>
                ))}
              </g>
            );
          })}
          <line className="cursor" x1={x(time)} x2={x(time)} y1={0} y2={height} />
        </svg>
        <input
          type="range"
          className="slider"
          style={{ marginLeft: gutter, width: width - gutter }}
          aria-label="Instant of the run"
          aria-valuetext={clock(time)}
          min={from}
          max={to}
          step="any"
          value={Math.min(Math.max(time, from), to)}
          onKeyDown={(event) => {
            const by = { ArrowLeft: -step, ArrowRight: step, PageUp: 10 * step, PageDown: -10 * step }[event.key];
            if (by === undefined) return;
            event.preventDefault();
            app.go({ time: Math.min(Math.max(time + by, from), to) }, true);
          }}
          onChange={(event) => {
            setPlaying(false);
            app.go({ time: Number(event.target.value) }, true);
          }}
        />
        <div className="span-ends" aria-hidden="true" style={{ marginLeft: gutter }}>
          <span>{clock(from)}</span>
          <span>{clock(to)}</span>
        </div>
      </div>
    </footer>
  );
}

function attackSpans(steps: { time: number; value: string }[], end: number): [number, number][] {
  const spans: [number, number][] = [];
  let open = 0;
  for (const step of [...steps].sort((a, b) => a.time - b.time)) {
    if (step.value) {
      if (open++ === 0) spans.push([step.time, end]);
    } else if (open > 0 && --open === 0) spans[spans.length - 1][1] = step.time;
  }
  return spans;
}

/** The share of what all users asked for that they got, between two times. */
function served(traffic: Map<string, { time: number; legitimate: number; wanted: number }[]>, from: number, to: number, width: number): [number, number][] {
  const columns = Math.max(2, Math.min(300, Math.floor(width / 3)));
  const got = new Float64Array(columns);
  const wanted = new Float64Array(columns);
  for (const samples of traffic.values())
    for (const sample of samples) {
      if (sample.time < from || sample.time > to) continue;
      const at = Math.min(columns - 1, Math.floor(((sample.time - from) / Math.max(to - from, 1e-9)) * columns));
      got[at] += Math.min(sample.legitimate, sample.wanted);
      wanted[at] += sample.wanted;
    }
  const points: [number, number][] = [];
  for (let at = 0; at < columns; at++)
    if (wanted[at] > 0) points.push([from + ((at + 0.5) / columns) * (to - from), got[at] / wanted[at]]);
  return points;
}

