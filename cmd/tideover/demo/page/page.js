'use strict';

// The page around the chats. It watches them from outside, tells the server
// what they sent and what is on their screens, and draws what the server makes
// of it. Columns come from the server; nothing here knows how many there are.

const TALK_EVERY = 3000;    // ms between the visitor's automatic messages
const REPORT_EVERY = 150;   // ms
const $ = (selector, root = document) => root.querySelector(selector);

let visit;                  // what the server says of this visit
let columns = new Map();    // id → Column
let network = 'none';
let brokenSince = 0;

class Column {
  constructor({ id, title, hops, note, src }) {
    this.id = id;
    this.sent = [];         // ids to report
    this.shown = [];
    this.people = new Map(); // name → element
    this.section = $('#column').content.cloneNode(true).firstElementChild;
    $('h2', this.section).textContent = title;
    $('.hops', this.section).append(...this.path(hops));
    $('.note', this.section).textContent = note;
    this.frame = $('iframe', this.section);
    this.frame.title = `Chat: ${title}`;
    this.frame.addEventListener('load', () => this.watch());
    this.frame.src = src;
    $('#columns').append(this.section);
    this.line = element('li', '', '');
    this.line.append(`${title}: `, element('b', ''));
    $('#summary').append(this.line);
  }

  path(hops) {
    const parts = [];
    hops.forEach((hop, i) => {
      if (i > 0) parts.push(element('span', 'wire', '──'));
      parts.push(element('span', hop === 'Tideover' || hop.includes('client') ? 'own' : '', hop));
    });
    this.wire = parts[1];
    return parts;
  }

  // watch notes each message that gets onto the chat's screen, and the socket that the chat sends with.
  watch() {
    const column = this;
    const { prototype } = this.frame.contentWindow.WebSocket;
    const { send } = prototype;
    prototype.send = function (data) {
      if (column.socket !== this) {
        column.socket = this;
        this.addEventListener('pending', () => column.drawPending());
      }
      return send.call(this, data);
    };
    const list = this.frame.contentDocument.getElementById('messages');
    if (!list) return;
    const note = (item) => {
      if (item.dataset?.id) this.shown.push(item.dataset.id);
    };
    new MutationObserver((changes) => {
      for (const change of changes) change.addedNodes.forEach(note);
    }).observe(list, { childList: true });
    for (const item of list.children) note(item);
  }

  say(text) {
    const id = this.frame.contentWindow.say?.(text);
    if (id) this.sent.push(id);
  }

  // report returns what is new since the last call.
  report() {
    const { sent, shown } = this;
    this.sent = [];
    this.shown = [];
    return sent.length + shown.length > 0 ? { sent, shown } : undefined;
  }

  draw(figures, broken, cuts) {
    const section = this.section;
    const directions = ['to_you', 'from_you'];
    const sum = (name) => directions.reduce((total, direction) => total + figures[direction][name], 0);
    const lost = sum('lost'), twice = sum('twice'), waiting = sum('waiting');
    const late = broken || waiting > 2; // one or two are always just on their way
    section.dataset.late = late;
    for (const direction of directions) {
      const count = figures[direction];
      const row = $(`[data-direction="${direction}"]`, section);
      this.cell(row, 'sent', count.sent);
      this.cell(row, 'seen', count.once + count.twice);
      this.cell(row, 'lost', count.lost, count.lost ? 'bad' : cuts ? 'good' : '');
      this.cell(row, 'twice', count.twice, count.twice ? 'bad' : cuts ? 'good' : '');
      this.cell(row, 'waiting', count.waiting, late && count.waiting ? 'wait' : '');
      const tape = $(`[data-tape="${direction}"]`, section);
      tape.replaceChildren(...Array.from(count.tape, (mark) => element('i', mark)));
    }

    const [mood, words] = cuts ? verdict(lost, twice, waiting, late) : ['calm', 'All is well, so far'];
    $('.verdict', section).dataset.mood = mood;
    setText($('.words', section), words);
    this.line.dataset.mood = mood;
    setText($('b', this.line), words);

    for (const person of figures.people ?? []) this.present(person);
    const { left, joined, away, reconnected } = figures.noise;
    const noise = [
      left && `“You left” ${left}×`, joined && `“You joined” ${joined}×`,
      away && `“You are away” ${away}×`, reconnected && `“You are back” ${reconnected}×`,
    ].filter(Boolean).join(', ');
    setText($('.noise', section), `Ann was told: ${noise || 'nothing about you so far'}`);

    this.wire.classList.toggle('broken', broken);
    setText(this.wire, broken ? '─ ✕ ─' : '──');
  }

  // drawPending shows what the browser client has not got rid of; a plain WebSocket knows no such number. One
  // that is acknowledged in the next moment is not worth a word.
  drawPending() {
    const pending = network === 'up' ? 0 : this.socket.pending;
    const badge = $('.badge', this.section);
    badge.hidden = !pending;
    setText(badge, pending ? `${pending} message${pending > 1 ? 's' : ''} pending…` : '');
  }

  // present draws one person as the witness sees them.
  present({ name, state }) {
    const isYou = name === visit.visitor;
    let mark = isYou ? $('.you', this.section) : this.people.get(name);
    if (!mark) {
      mark = element('span', 'person');
      this.people.set(name, mark);
      $('.you', this.section).before(mark);
    }
    mark.dataset.state = state;
    setText(mark, isYou || state !== 'online' ? `${name}: ${state}` : name);
  }

  cell(row, name, value, mood = '') {
    const cell = $(`[data-count="${name}"]`, row);
    setText(cell, String(value));
    cell.dataset.mood = mood;
  }
}

// verdict sums a column up, once the network has been broken.
function verdict(lost, twice, waiting, late) {
  const parts = [];
  if (lost) parts.push(`${lost} lost`);
  if (twice) parts.push(`${twice} twice`);
  if (late && waiting) parts.push(`${waiting} waiting`);
  if (lost) return ['bad', parts.join(', ')];
  if (late) return ['wait', parts.join(', ') || 'Cut off'];
  return twice ? ['wait', `Nothing lost, ${parts[0]}`] : ['good', 'Nothing lost, nothing twice'];
}

function element(name, className, text = '') {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

// setText leaves an element alone that says it already, so that a screen
// reader hears only of changes.
function setText(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

function post(what, body) {
  return fetch(`/visits/${visit.id}/${what}`, { method: 'POST', body: JSON.stringify(body) });
}

function sayEverywhere(text) {
  for (const column of columns.values()) column.say(text);
}

let talked = 0;
function talk(remark = '') {
  talked++;
  sayEverywhere(`My automatic message ${talked}${remark}`);
}

function drawNetwork(state) {
  const words = { up: 'Your network is up', pulled: 'Your plug is pulled', frozen: 'Your network is frozen', dead: 'The demo itself has stopped' };
  if ((state === 'pulled' || state === 'frozen') && network === 'up') brokenSince = Date.now();
  network = state;
  $('#state').dataset.state = state;
  setText($('#network'), words[state]);
  $('[data-do="pull"]').disabled = state === 'pulled' || state === 'dead';
  $('[data-do="freeze"]').disabled = state === 'frozen' || state === 'dead';
  $('[data-do="back"]').disabled = state === 'up' || state === 'dead';
  for (const input of $('#talk').elements) input.disabled = state === 'dead';
}

function begin(description) {
  visit = description;
  columns = new Map();
  $('#columns').replaceChildren();
  $('#summary').replaceChildren();
  for (const column of visit.columns) columns.set(column.id, new Column(column));
}

const live = new EventSource('/live');
live.addEventListener('visit', (event) => begin(JSON.parse(event.data)));
live.addEventListener('figures', (event) => {
  const figures = JSON.parse(event.data);
  drawNetwork(figures.network);
  for (const column of figures.columns) {
    columns.get(column.id).draw(column, figures.network !== 'up', figures.cuts);
  }
});
live.addEventListener('error', () => drawNetwork('dead'));

for (const button of document.querySelectorAll('[data-do]')) {
  button.addEventListener('click', async () => {
    await post('network', { do: button.dataset.do });
    if (button.dataset.do === 'back') {
      // What a browser tells its pages when its network returns. The plain chat does not listen.
      for (const column of columns.values()) column.frame.contentWindow.dispatchEvent(new Event('online'));
    }
    if (button.dataset.do === 'pull') talk(' (as the plug went)');
    if (button.dataset.do === 'freeze') talk(' (into the ice)');
  });
}

$('#talk').addEventListener('submit', (event) => {
  event.preventDefault();
  const input = $('#text');
  if (input.value.trim()) sayEverywhere(input.value.trim());
  input.value = '';
});

setInterval(() => {
  if (network !== 'none' && network !== 'dead') talk();
}, TALK_EVERY);

setInterval(() => {
  const report = {};
  for (const column of columns.values()) report[column.id] = column.report();
  if (Object.values(report).some(Boolean)) post('report', report).catch(() => {});
}, REPORT_EVERY);

setInterval(() => {
  const away = network === 'pulled' || network === 'frozen';
  setText($('#outage'), away ? `· ${Math.round((Date.now() - brokenSince) / 1000)} s` : '');
}, 500);
