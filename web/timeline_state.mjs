// What a timeline's JSON says: prompts and curves as tracks of keys. No part of the page is needed here.
import { placeOf, WAYS } from "./curve_editor.mjs";

export const TRACKS = ["scale", "effect", "cfg", "strength"];
const PROMPT_WAYS = ["hold", "linear", "smooth"];

/** The state in a text, its curves as lists of keys, or null where it is of a form that is not drawn. */
export function readTimeline(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    return null;
  }
  if (Array.isArray(found?.keys)) found = { prompts: found };
  const { prompts, curves = {}, ...more } = found ?? {};
  if (Object.keys(more).length || !Array.isArray(prompts?.keys) || typeof curves !== "object") return null;
  const read = Object.entries(curves ?? {}).map(([name, curve]) => [name, readCurve(curve)]);
  const state = {
    prompts: { before: "", after: "", interpolation: "linear", ...prompts, keys: prompts.keys.map(withWay) },
    curves: Object.fromEntries(read),
  };
  const sound = (key, value) => ["number", "string"].includes(typeof key?.at) && typeof key[value] !== "undefined";
  const isCurve = ([name, curve]) => TRACKS.includes(name) && curve?.keys.every((key) => sound(key, "value"));
  const { keys } = state.prompts;
  return read.every(isCurve) && keys.length && keys.every((key) => sound(key, "text")) ? state : null;
}

const withWay = (key) => ({ way: "linear", ...key });

function readCurve(curve) {
  if (typeof curve === "number") return { over: "frames", keys: [{ at: 0, value: curve, way: "linear" }] };
  if (Array.isArray(curve) && typeof curve[0] === "number") {
    return { over: "frames", keys: curve.map((value, at) => ({ at, value, way: "linear" })) };
  }
  const { over = "frames", keys } = Array.isArray(curve) ? { keys: curve } : (curve ?? {});
  if (!Array.isArray(keys) || !keys.length) return null;
  const named = keys.map((key) => (Array.isArray(key) ? { at: key[0], value: key[1], way: key[2] ?? "linear" } : key));
  return { over, keys: named.map(withWay) };
}

/** Tracks from top to bottom: prompts, then curves; each key with its place on the way from frame 0 to the last. */
export function tracksOf(state, frames) {
  const last = Math.max(1, frames - 1);
  const placed = (keys, over) => keys.map((key) => ({ ...key, place: placeOf(String(key.at), last, over) }));
  const curves = TRACKS.filter((name) => state.curves[name]).map((name) => {
    const { over, keys } = state.curves[name];
    return { name, over, keys: placed(keys, over), ways: WAYS };
  });
  const keys = placed(state.prompts.keys, "frames");
  return [{ name: "prompts", over: "frames", keys, ways: PROMPT_WAYS }, ...curves];
}

/** The state with other keys in one track; a curve without keys is none. */
export function withKeys(state, name, keys) {
  const plain = keys.map(({ place, ...key }) => key);
  if (name === "prompts") return { ...state, prompts: { ...state.prompts, keys: plain } };
  const { [name]: before, ...others } = state.curves;
  if (!plain.length) return { ...state, curves: others };
  return { ...state, curves: { ...others, [name]: { over: "frames", ...before, keys: plain } } };
}
