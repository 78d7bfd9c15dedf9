// What the page and its backend say to each other, and how each of them counts what it hears. Loaded by both.
//
// Message i of a party can be told from its number alone, so that a changed byte is found: texts, some of which
// start like control messages of tideover.v1, and binary ones.
globalThis.messageOf = (who, i) => {
  const head = `${who}:${i}:`;
  if (i % 10 === 0) return new TextEncoder().encode(head + '\0\xff'.repeat((i * 37) % 1500));
  if (i % 10 === 1) return '\x1e' + head + '{"type":"ack","received":1}';
  if (i % 10 === 2) return '\x1e\x1e' + head;
  return head + 'ü✓x'.repeat((i * i) % 200);
};

// A party speaks its messages 1, 2, 3 … up to a goal, one a tick, and takes those of the other one.
globalThis.party = (me, other) => {
  const seen = new Set();
  let highest = 0;
  const asText = (data) => (typeof data === 'string' ? data : 'binary ' + new TextDecoder().decode(data));
  return {
    goal: 0,
    report: {opens: 0, closes: 0, sent: 0, received: 0, doubled: 0, misplaced: 0, changed: 0, first: ''},
    // speak sends the next message, if the socket takes one now.
    speak(socket) {
      if (this.report.sent < this.goal && socket?.readyState === 1) socket.send(messageOf(me, ++this.report.sent));
    },
    take(data) {
      const {report} = this;
      const i = Number(/(\w+):(\d+):/.exec(asText(data))?.[2]);
      let wrong;
      if (asText(data) !== asText(messageOf(other, i))) wrong = 'changed';
      else if (seen.has(i)) wrong = 'doubled';
      else if (i < highest) wrong = 'misplaced';
      if (wrong) {
        report[wrong]++;
        report.first ||= `${wrong}: ${asText(data).slice(0, 80)} after number ${highest}`;
      }
      if (wrong !== 'changed' && !seen.has(i)) {
        seen.add(i);
        report.received++;
        highest = Math.max(highest, i);
      }
    },
  };
};
