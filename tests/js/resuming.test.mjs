/** Where rooms.js goes on: the cursor it asks for, and when it says that messages may be missing. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { page } from "./fakes.mjs";

test("the first connection speaks rooms.v1 and asks for what comes from now on", () => {
  const { socket } = page();
  assert.deepEqual(socket.protocols, ["rooms.v1"]);
  assert.deepEqual(socket.query, { since: "latest", ping: "25" });
});

test("the query of the given URL is kept, each time", () => {
  const it = page("ws://server/ws/lobby?tag=a&tag=b&text=%C3%B6%20%26");
  it.socket.goesLive({ id: "e-1" });
  it.comesBack();
  for (const { url } of it.sockets) {
    assert.deepEqual(url.searchParams.getAll("tag"), ["a", "b"]);
    assert.equal(url.searchParams.get("text"), "ö &");
  }
  assert.deepEqual(it.sockets.map(({ url }) => url.searchParams.getAll("since")), [["latest"], ["e-1"]]);
});

test("a URL is relative to the page's, with ws for http and wss for https", () => {
  const openedBy = (baseURI, url) => {
    const document = Object.assign(new EventTarget(), { baseURI, visibilityState: "visible" });
    return page(url, { document }).socket.url.href.split("?")[0];
  };
  assert.equal(openedBy("http://server:8000/app/page?x=1", "/ws/lobby"), "ws://server:8000/ws/lobby");
  assert.equal(openedBy("https://server/app/page", "ws/lobby"), "wss://server/app/ws/lobby");
  assert.equal(openedBy("https://server/", new URL("ws://other/ws")), "ws://other/ws");
});

test("a cursor of the page is asked for on the first connection", () => {
  assert.equal(page(undefined, { since: "e-7" }).socket.query.since, "e-7");
  assert.equal(page("ws://server/ws/lobby?since=e-8").socket.query.since, "e-8");
});

test("a page without a cursor starts from now on", () => {
  for (const since of [undefined, null, "", "latest"]) {
    const { socket, rooms } = page(undefined, { since });
    assert.deepEqual([socket.query.since, rooms.cursor], ["latest", ""]);
  }
});

test("each frame with an id moves the cursor, and a frame without one leaves it", () => {
  const { rooms, socket } = page();
  const seen = [];
  const says = (name, id) => {
    socket.says(name, {}, id === undefined ? {} : { id });
    seen.push(rooms.cursor);
  };
  says("sys.hello");
  says("sys.resumed", "e-1");
  says("chat.message", "e-2");
  says("chat.message");
  says("chat.unknown", "e-3");
  says("sys.ping", "e-4");
  says("sys.reset", "f-1");
  says("sys.closing");
  assert.deepEqual(seen, ["", "e-1", "e-2", "e-2", "e-3", "e-4", "f-1", "f-1"]);
});

test("an id that the server would refuse is no cursor", () => {
  const { rooms, socket } = page();
  for (const id of [7, null, "", {}, "x".repeat(65)]) {
    socket.says("chat.message", {}, { id });
  }
  assert.equal(rooms.cursor, "");
  socket.says("chat.message", {}, { id: "x".repeat(64) });
  assert.equal(rooms.cursor, "x".repeat(64));
});

test("a handler that connects anew does not get its message again", () => {
  const { rooms, sockets } = page();
  sockets[0].goesLive({ id: "e-1" });
  rooms.on("move", () => rooms.reconnect());
  sockets[0].says("move", {}, { id: "e-2" });
  assert.equal(sockets[1].query.since, "e-2");
});

test("it is live once the server has answered, not before, and says who answered", () => {
  const { rooms, socket, statuses } = page();
  socket.says("sys.hello", { connection: "c1", process: "p1", rooms: ["lobby"] });
  assert.equal(rooms.status.state, "connecting");
  socket.says("sys.resumed", { replayed: 0 });
  assert.deepEqual(statuses.at(-1), {
    ...{ state: "live", isFirst: true, replayed: 0 },
    ...{ connection: "c1", process: "p1", rooms: ["lobby"] },
  });
});

test("after a resume nothing is missing: what was replayed came as messages, and their number is told", () => {
  const it = page();
  const notes = [];
  it.rooms.on("note", ({ number }) => notes.push(number));
  it.socket.goesLive({ id: "e-0" });
  it.socket.says("note", { number: 1 }, { id: "e-1" });
  it.comesBack();
  assert.equal(it.socket.query.since, "e-1");
  it.socket.says("sys.hello");
  it.socket.says("note", { number: 2 }, { id: "e-2" });
  it.socket.says("note", { number: 3 }, { id: "e-3" });
  it.socket.says("sys.resumed", { replayed: 2 }, { id: "e-3" });
  assert.deepEqual(notes, [1, 2, 3]);
  assert.deepEqual(it.statuses.at(-1), { state: "live", isFirst: false, replayed: 2 });
  assert.deepEqual(it.resets, []);
});

test("a reset is told with its reason, once live, and is gone on from", () => {
  const it = page();
  const order = [];
  it.rooms.onStatus(({ state }) => order.push(state));
  it.rooms.onReset(({ reason }) => order.push(reason));
  it.socket.goesLive({ id: "e-1" });
  it.comesBack();
  it.socket.goesLive({ answer: "sys.reset", message: { reason: "trimmed" }, id: "e-9" });
  assert.deepEqual(order.slice(-2), ["live", "trimmed"]);
  it.comesBack();
  assert.equal(it.socket.query.since, "e-9");
});

test("a reset in the midst of a connection is told, and the status stays", () => {
  const { socket, statuses, resets } = page();
  socket.goesLive({ id: "e-1" });
  socket.says("sys.reset", { reason: "epoch" }, { id: "f-1" });
  assert.deepEqual(resets, ["epoch"]);
  assert.deepEqual(statuses.map(({ state }) => state), ["connecting", "live"]);
});

test("without history, coming back is a reset by itself, each time; the first connection is none", () => {
  const it = page();
  it.socket.goesLive();
  assert.deepEqual(it.resets, []);
  it.comesBack();
  assert.equal(it.socket.query.since, "latest");
  it.socket.goesLive();
  assert.deepEqual(it.resets, ["no_history"]);
  it.comesBack();
  it.socket.goesLive();
  assert.deepEqual(it.resets, ["no_history", "no_history"]);
  const live = it.statuses.filter(({ state }) => state === "live");
  assert.deepEqual(live.map(({ isFirst }) => isFirst), [true, false, false]);
});

test("history that begins between two connections does not hide what was lost before it", () => {
  const it = page();
  it.socket.goesLive();
  it.comesBack();
  it.socket.goesLive({ id: "e-1" });
  assert.deepEqual(it.resets, ["no_history"]);
  it.comesBack();
  it.socket.goesLive({ id: "e-1" });
  assert.deepEqual(it.resets, ["no_history"]);
});

test("attempts that failed before the page was ever live lose nothing", () => {
  const it = page();
  it.comesBack();
  it.socket.says("sys.hello");
  it.comesBack(1013);
  it.socket.goesLive();
  assert.deepEqual(it.resets, []);
  assert.equal(it.statuses.at(-1).isFirst, true);
});

test("an answered cursor that the server has no history for is one reset, not two", () => {
  const it = page(undefined, { since: "e-7" });
  it.socket.goesLive({ answer: "sys.reset", message: { reason: "no_history" } });
  assert.deepEqual(it.resets, ["no_history"]);
});
