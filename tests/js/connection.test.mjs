/** When rooms.js connects, waits, gives up and stops. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { page } from "./fakes.mjs";

const STEADY = 5_000;
const CONNECT = 11_000;
const SILENT = 2 * 25_000 + 5_000;

const COME_BACK = [1001, 1005, 1006, 1011, 1012, 1013, 3000, 4005, 4008, 4010, 4011, 4013, 4499];
const STOP = [1000, 4500, 4501, 4503, 4504, 4505, 4507, 4999];

for (const code of COME_BACK) {
  test(`${code} asks it to come back`, () => {
    const it = page();
    it.socket.goesLive();
    it.socket.closes(code, "because");
    assert.deepEqual(it.statuses.at(-1), { state: "reconnecting", delay: 250, attempt: 1, code, reason: "because" });
    it.clock.advance(249);
    assert.equal(it.sockets.length, 1);
    it.clock.advance(1);
    assert.equal(it.sockets.length, 2);
    assert.deepEqual({ ...it.rooms.status, delay: 250 }, it.statuses.at(-2));
    assert.equal(it.rooms.status.delay, 0);
  });
}

for (const code of STOP) {
  test(`${code} asks it to stop`, () => {
    const it = page();
    it.socket.goesLive();
    it.socket.closes(code, "because");
    assert.deepEqual(it.statuses.at(-1), { state: "stopped", code, reason: "because" });
    it.document.tell("visibilitychange");
    it.window.tell("online");
    it.clock.advance(3_600_000);
    assert.equal(it.sockets.length, 1);
    assert.deepEqual([it.clock.waiting, it.document.listeners, it.window.listeners], [0, 0, 0]);
  });
}

test("the wait is random, and its bound doubles from half a second to thirty", () => {
  for (const random of [0, 0.25, 0.999]) {
    const it = page(undefined, { random: () => random });
    const bounds = [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000];
    const delays = bounds.map(() => {
      it.socket.closes(1006);
      const { delay } = it.rooms.status;
      it.clock.advance(delay);
      return delay;
    });
    assert.deepEqual(delays, bounds.map((bound) => random * bound));
  }
});

test("a connection that was live for some seconds begins the waits anew, a shorter one does not", () => {
  const it = page();
  for (const [lived, attempt] of [[0, 1], [STEADY - 1, 2], [STEADY, 1], [0, 2]]) {
    it.socket.goesLive();
    it.clock.advance(lived);
    it.socket.closes(1006);
    assert.equal(it.rooms.status.attempt, attempt);
    it.clock.advance(it.rooms.status.delay);
  }
});

test("a connection that is open for long and never live does not begin the waits anew", () => {
  const it = page();
  for (const attempt of [1, 2, 3]) {
    it.socket.says("sys.hello");
    it.clock.advance(2 * STEADY);
    it.socket.closes(1011);
    assert.equal(it.rooms.status.attempt, attempt);
    it.clock.advance(it.rooms.status.delay);
  }
});

test("what the server said before closing is believed rather than the close frame", () => {
  const it = page();
  it.socket.goesLive();
  it.socket.says("sys.closing", { code: 4503, reason: "kicked", retry_after_ms: 0 });
  it.socket.closes(1006);
  assert.deepEqual(it.rooms.status, { state: "stopped", code: 4503, reason: "kicked" });
});

test("what one connection said of its end does not concern the next one's", () => {
  const it = page();
  it.socket.says("sys.closing", { code: 1013, reason: "busy", retry_after_ms: 5_000 });
  it.comesBack(1013);
  it.socket.closes(1006);
  assert.deepEqual(it.rooms.status, { state: "reconnecting", delay: 500, attempt: 2, code: 1006, reason: "" });
});

test("a wait that the server asks for comes on top of the random one", () => {
  const it = page();
  it.socket.says("sys.closing", { code: 1013, reason: "busy", retry_after_ms: 5_000 });
  it.socket.closes(1013);
  assert.deepEqual(it.rooms.status, { state: "reconnecting", delay: 5_250, attempt: 1, code: 1013, reason: "busy" });
  it.clock.advance(5_249);
  assert.equal(it.sockets.length, 1);
  it.clock.advance(1);
  assert.equal(it.sockets.length, 2);
});

test("a page that is looked at keeps to the wait that the server asked for, then tries at once", () => {
  const it = page(undefined, { random: () => 1 });
  it.socket.says("sys.closing", { code: 1013, reason: "busy", retry_after_ms: 5_000 });
  it.socket.closes(1013);
  it.clock.advance(4_999);
  it.window.tell("online");
  assert.equal(it.sockets.length, 1);
  it.clock.advance(1);
  it.window.tell("online");
  assert.equal(it.sockets.length, 2);
});

test("a handshake that hangs is given up, without waiting for its close", () => {
  const it = page();
  it.clock.advance(CONNECT - 1);
  assert.equal(it.sockets[0].closedWith, null);
  it.clock.advance(1);
  assert.equal(it.sockets[0].closedWith, 1000);
  assert.deepEqual(it.rooms.status, { state: "reconnecting", delay: 250, attempt: 1, code: 1006, reason: "silent" });
  it.clock.advance(250);
  assert.equal(it.sockets.length, 2);
  it.socket.goesLive();
  it.comesBack();
  it.clock.advance(CONNECT);
  assert.equal(it.rooms.status.reason, "silent"); // a later one is not given more time
});

test("an error is nothing by itself: a close follows", () => {
  const it = page();
  it.socket.onerror(new Event("error"));
  assert.equal(it.rooms.status.state, "connecting");
});

test("a connection that falls silent is replaced at once, though it never closes", () => {
  const it = page();
  it.socket.goesLive({ id: "e-1" });
  it.clock.advance(SILENT - 1);
  assert.equal(it.rooms.status.state, "live");
  it.clock.advance(1);
  assert.equal(it.rooms.status.state, "reconnecting");
  it.clock.advance(250);
  assert.deepEqual([it.sockets.length, it.socket.query.since], [2, "e-1"]);
  it.sockets[0].says("chat.message", {}, { id: "e-0" });
  it.sockets[0].closes(1000);
  assert.deepEqual([it.rooms.cursor, it.rooms.status.state], ["e-1", "reconnecting"]);
  it.socket.goesLive({ id: "e-1" });
  assert.equal(it.rooms.status.state, "live");
});

test("any frame is a sign of life: a ping, a message, a raw broadcast", () => {
  const it = page();
  it.socket.goesLive();
  for (const sign of ["sys.ping", "chat.message"]) {
    it.clock.advance(SILENT - 1);
    it.socket.says(sign);
  }
  it.clock.advance(SILENT - 1);
  it.socket.brings("raw");
  it.clock.advance(SILENT - 1);
  assert.equal(it.sockets.length, 1);
  it.clock.advance(1);
  assert.equal(it.rooms.status.state, "reconnecting");
});

test("the server is asked for the pings that are waited for", () => {
  for (const it of [page(undefined, { ping: 5 }), page("ws://server/ws?ping=5")]) {
    assert.equal(it.socket.query.ping, "5");
    it.socket.goesLive();
    it.clock.advance(2 * 5_000 + 4_999);
    assert.equal(it.rooms.status.state, "live");
    it.clock.advance(1);
    assert.equal(it.rooms.status.state, "reconnecting");
  }
});

test("a ping that the server would refuse is refused here", () => {
  for (const ping of [0, -1, 0.5, 3601, NaN, "25"]) {
    assert.throws(() => page(undefined, { ping }), RangeError);
  }
});

test("a clock that is set back does not keep a silent connection alive for longer", () => {
  const it = page();
  it.socket.goesLive();
  it.clock.jump(-3_600_000);
  it.clock.advance(2 * SILENT);
  assert.notEqual(it.rooms.status.state, "live");
});

for (const [target, event] of [["document", "visibilitychange"], ["window", "online"]]) {
  test(`${event} ends a wait`, () => {
    const it = page();
    it.socket.closes(1006);
    it[target].tell(event);
    assert.equal(it.sockets.length, 2);
    assert.equal(it.clock.waiting, 1);
    it[target].tell(event);
    assert.equal(it.sockets.length, 2);
  });

  test(`${event} finds out that a connection died in a sleep`, () => {
    const it = page();
    it.socket.goesLive();
    it.clock.jump(29_001);
    it[target].tell(event);
    assert.equal(it.clock.waiting, 1);
    it.clock.advance(1_000);
    assert.equal(it.rooms.status.state, "reconnecting");
  });

  test(`${event} leaves a connection alone that is not overdue`, () => {
    const it = page();
    it.socket.goesLive();
    it.clock.advance(29_000);
    it[target].tell(event);
    it.clock.advance(20_000);
    assert.equal(it.rooms.status.state, "live");
  });
}

for (const [who, wake] of Object.entries({
  "the page": (it) => it.document.tell("visibilitychange"),
  "a timer": (it) => it.clock.advance(10_000),
})) {
  test(`frames that came during a sleep are seen before the connection is given up, when ${who} wakes first`, () => {
    const it = page();
    it.socket.goesLive();
    it.clock.jump(600_000);
    wake(it);
    it.clock.advance(500);
    it.socket.says("sys.ping");
    it.clock.advance(SILENT - 1);
    assert.equal(it.rooms.status.state, "live");
    it.clock.advance(1_001);
    assert.equal(it.rooms.status.state, "reconnecting");
  });
}

test("a page that is hidden does not end a wait", () => {
  const it = page();
  it.socket.closes(1006);
  it.document.visibilityState = "hidden";
  it.document.tell("visibilitychange");
  assert.equal(it.sockets.length, 1);
  it.window.tell("online"); // also in a hidden page
  assert.equal(it.sockets.length, 2);
});

test("reconnect() ends a wait, also one that the server asked for, and counts the attempts on", () => {
  const it = page();
  it.socket.says("sys.closing", { code: 1013, reason: "busy", retry_after_ms: 5_000 });
  it.socket.closes(1013);
  it.rooms.reconnect();
  assert.equal(it.sockets.length, 2);
  assert.equal(it.clock.waiting, 1);
  it.socket.closes(1013);
  assert.equal(it.rooms.status.attempt, 2);
});

test("reconnect() replaces a connection that is live, and goes on where that was", () => {
  const it = page();
  it.socket.goesLive({ id: "e-1" });
  it.rooms.reconnect();
  assert.equal(it.sockets[0].closedWith, 1000);
  assert.deepEqual([it.socket.query.since, it.rooms.status.state], ["e-1", "connecting"]);
  it.socket.goesLive({ id: "e-1" });
  assert.deepEqual([it.resets, it.document.listeners], [[], 1]);
});

for (const [how, stop] of Object.entries({
  "a stop": (it) => it.socket.closes(4500),
  "close()": (it) => it.rooms.close(),
})) {
  test(`reconnect() opens again after ${how}, with its handlers`, () => {
    const it = page();
    it.socket.closes(1006);
    it.clock.advance(250);
    it.socket.goesLive({ id: "e-1" });
    stop(it);
    it.rooms.reconnect();
    assert.equal(it.socket.query.since, "e-1");
    it.socket.goesLive({ id: "e-1" });
    assert.deepEqual(it.states.slice(-2), ["connecting", "live"]);
    it.socket.closes(1006);
    assert.equal(it.rooms.status.attempt, 1);
    it.window.tell("online");
    assert.equal(it.socket.query.since, "e-1");
  });
}

for (const [when, prepare] of Object.entries({
  "while it connects": () => {},
  "while it is live": (it) => it.socket.goesLive(),
  "while it waits": (it) => it.socket.closes(1006),
  "after a stop": (it) => it.socket.closes(4500),
  "twice": (it) => it.rooms.close(),
})) {
  test(`close() leaves for good, and nothing behind, ${when}`, () => {
    const it = page();
    prepare(it);
    it.rooms.close();
    assert.deepEqual([it.clock.waiting, it.document.listeners, it.window.listeners], [0, 0, 0]);
    it.clock.advance(3_600_000);
    assert.equal(it.sockets.length, 1);
    assert.equal(it.rooms.status.state, "stopped");
  });
}

test("close() in a status handler holds", () => {
  const it = page();
  it.rooms.onStatus(({ state }) => state === "reconnecting" && it.rooms.close());
  it.socket.closes(1006);
  it.clock.advance(60_000);
  assert.equal(it.sockets.length, 1);
});

test("a status handler is told the present status at once", () => {
  const it = page();
  it.socket.goesLive();
  const told = [];
  it.rooms.onStatus(({ state }) => told.push(state));
  assert.deepEqual(told, ["live"]);
});
