/** What rooms.js does with what comes: messages to their handlers, and everything else to nobody. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { connect, page } from "./fakes.mjs";

let reported;

beforeEach(() => {
  reported = [];
  globalThis.reportError = (error) => reported.push(error);
});

afterEach(() => {
  delete globalThis.reportError;
});

/** A page that is live, with all that a handler of `chat.message` gets. */
function livePage() {
  const it = page();
  it.socket.goesLive();
  const got = [];
  const off = it.rooms.on("chat.message", (...args) => got.push(args));
  return Object.assign(it, { got, off });
}

test("a handler gets the messages of its type, with their envelopes", () => {
  const { socket, got } = livePage();
  socket.says("chat.message", { content: "hi" }, { room: "lobby", id: "e-1" });
  const envelope = { MESSAGE_ID: "chat.message", message: { content: "hi" }, room: "lobby", id: "e-1" };
  assert.deepEqual(got, [[{ content: "hi" }, envelope]]);
});

test("a handler gets nothing once it was taken off, and the others go on", () => {
  const { socket, got, off, rooms } = livePage();
  let others = 0;
  rooms.on("chat.message", () => (others += 1));
  socket.says("chat.message");
  off();
  off();
  socket.says("chat.message");
  assert.deepEqual([got.length, others], [1, 2]);
});

test("the same function added twice is called twice, and each is taken off by itself", () => {
  const { socket, rooms } = livePage();
  let calls = 0;
  const handler = () => (calls += 1);
  const off = rooms.on("note", handler);
  rooms.on("note", handler);
  socket.says("note");
  off();
  socket.says("note");
  assert.equal(calls, 3);
});

test("a handler may take off the next one, which is not called any more", () => {
  const { socket, rooms } = livePage();
  const calls = [];
  rooms.on("note", () => offSecond());
  const offSecond = rooms.on("note", () => calls.push("second"));
  rooms.on("note", () => calls.push("third"));
  socket.says("note");
  assert.deepEqual(calls, ["third"]);
});

test("a handler that is added while a message is handled gets the next one", () => {
  const { socket, rooms } = livePage();
  const calls = [];
  const off = rooms.on("note", () => {
    off();
    rooms.on("note", ({ number }) => calls.push(number));
  });
  socket.says("note", { number: 1 });
  socket.says("note", { number: 2 });
  assert.deepEqual(calls, [2]);
});

test("a handler that throws is reported, and stops neither the others nor the connection", () => {
  const { socket, rooms, got } = livePage();
  rooms.on("note", () => {
    throw new Error("oops");
  });
  const notes = [];
  rooms.on("note", (message) => notes.push(message));
  socket.says("note", { number: 1 }, { id: "e-1" });
  socket.says("chat.message");
  assert.deepEqual(reported.map(String), ["Error: oops"]);
  assert.deepEqual(notes, [{ number: 1 }]);
  assert.equal(got.length, 1);
  assert.equal(rooms.cursor, "e-1");
});

test("where there is no reportError, the console has what a handler threw", (context) => {
  delete globalThis.reportError;
  const log = context.mock.method(console, "error", () => {});
  const { socket, rooms } = livePage();
  rooms.on("note", () => {
    throw new Error("oops");
  });
  socket.says("note");
  assert.equal(String(log.mock.calls[0].arguments[0]), "Error: oops");
});

test("a status handler that throws does not keep the connection from coming back", () => {
  const it = page();
  it.rooms.onStatus(({ state }) => {
    if (state !== "connecting") {
      throw new Error(state);
    }
  });
  it.socket.goesLive();
  it.comesBack();
  it.socket.goesLive();
  assert.deepEqual(reported.map(({ message }) => message), ["live", "reconnecting", "reconnecting", "live"]);
});

test("what it does not know is ignored: types, keys, names of Object's own, and malformed frames", () => {
  const { socket, got, rooms } = livePage();
  for (const name of ["chat.unknown", "sys.unknown", "constructor", "__proto__", "toString", ""]) {
    socket.says(name, { content: "?" });
  }
  for (const data of ["", "{", "null", "7", '"text"', "[]", "{}", '{"MESSAGE_ID":7,"message":{}}']) {
    socket.brings(data);
  }
  socket.brings('{"MESSAGE_ID":"chat.message"}');
  socket.brings('{"MESSAGE_ID":"chat.message","message":null}');
  socket.brings('{"MESSAGE_ID":"chat.message","message":{"content":"hi"},"later":[1]}');
  assert.deepEqual(got.map(([message]) => message), [{ content: "hi" }]);
  assert.deepEqual(reported, []);
  assert.equal(rooms.status.state, "live");
});

test("a raw broadcast, text or binary, is for onRaw alone, and its id is no cursor", () => {
  const { socket, got, rooms } = livePage();
  const raw = [];
  rooms.onRaw((data) => raw.push(data));
  const bytes = new Uint8Array([255]).buffer;
  socket.brings('{"id":"17","text":"maintenance"}');
  socket.brings(bytes);
  assert.deepEqual(raw, ['{"id":"17","text":"maintenance"}', bytes]);
  assert.equal(socket.binaryType, "arraybuffer");
  assert.deepEqual([got, rooms.cursor], [[], ""]);
});

test("the server's own messages can be listened to", () => {
  const { rooms, sockets } = page();
  const got = [];
  for (const name of ["sys.hello", "sys.resumed", "sys.reset", "sys.ping", "sys.closing"]) {
    rooms.on(name, (message, envelope) => got.push([envelope.MESSAGE_ID, message]));
  }
  sockets[0].goesLive({ message: { replayed: 3 }, id: "e-3" });
  sockets[0].says("sys.ping", {}, { id: "e-4" });
  const hello = { connection: "c1", process: "p1", rooms: ["lobby"] };
  assert.deepEqual(got, [["sys.hello", hello], ["sys.resumed", { replayed: 3 }], ["sys.ping", {}]]);
});

test("after close() no handler is called, not even for the message that is being handled", () => {
  const { rooms, sockets, statuses } = page();
  const socket = sockets[0];
  socket.goesLive();
  const calls = [];
  rooms.on("note", () => {
    calls.push("first");
    rooms.close();
  });
  rooms.on("note", () => calls.push("second"));
  const before = statuses.length;
  socket.says("note");
  socket.says("note");
  socket.closes(1006);
  assert.deepEqual(calls, ["first"]);
  assert.equal(statuses.length, before);
  assert.deepEqual(rooms.status, { state: "stopped", code: 1000, reason: "" });
});

test("it runs where there is no document, no window and no WebSocket of the surroundings", () => {
  const opened = [];
  class Socket {
    constructor(url) {
      opened.push(url);
    }
    close() {}
  }
  const rooms = connect("https://server/ws/lobby", { WebSocket: Socket });
  rooms.close();
  assert.deepEqual(opened, ["wss://server/ws/lobby?ping=25&since=latest"]);
});
