'use strict';

// A chat as one writes it after a tutorial: one WebSocket, a reconnect loop,
// and a list of what was sent and has not come back from the server yet.

const query = new URLSearchParams(location.search);
const me = query.get('username');
const address = new URL('chat' + location.search, location.href.split('?')[0]);
address.protocol = address.protocol.replace('http', 'ws');

const RECONNECT_AFTER = 1000; // ms
const KEEP = 200;             // messages on the screen

const messages = document.getElementById('messages');
const pendingList = document.getElementById('pending');
const pending = new Map();    // id → { message, item }
let socket;
let said = 0;

function connect() {
  const ws = new WebSocket(address);
  socket = ws;
  ws.onopen = () => {
    setStatus('open', 'connected');
    for (const { message } of pending.values()) ws.send(JSON.stringify(message));
  };
  ws.onmessage = (event) => show(JSON.parse(event.data));
  ws.onclose = reconnect;
}

function reconnect() {
  setStatus('closed', 'connection lost, reconnecting…');
  setTimeout(connect, RECONNECT_AFTER);
}

// say sends a message, now or as soon as there is a connection, and returns
// its id.
function say(text) {
  said++;
  const message = { type: 'message', id: `${me}-${said}`, number: said, username: me, text };
  const item = line(message);
  pendingList.append(item);
  scrollDown();
  pending.set(message.id, { message, item });
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  return message.id;
}

const notices = {
  user_joined: 'joined',
  user_left: 'left',
  user_away: 'is away',
  user_reconnected: 'is back',
};

function show(message) {
  if (message.type === 'message') {
    const mine = pending.get(message.id);
    if (mine) { // it came back from the server: everybody has it
      mine.item.remove();
      pending.delete(message.id);
    }
    append(line(message));
  } else if (message.type in notices) {
    const item = document.createElement('li');
    item.className = 'notice';
    item.textContent = `${message.username} ${notices[message.type]}`;
    append(item);
  }
}

function line({ id, number, username, text }) {
  const item = document.createElement('li');
  item.dataset.id = id;
  item.classList.toggle('mine', username === me);
  item.append(span('number', `#${number}`), span('name', username), text);
  return item;
}

function span(className, text) {
  const element = document.createElement('span');
  element.className = className;
  element.textContent = text;
  return element;
}

function append(item) {
  messages.append(item);
  while (messages.children.length > KEEP) messages.firstChild.remove();
  scrollDown();
}

function scrollDown() {
  for (const list of [messages, pendingList]) list.scrollTop = list.scrollHeight;
}

function setStatus(state, text) {
  const status = document.getElementById('status');
  status.dataset.state = state;
  status.textContent = text;
}

connect();
