// Put into a page before its own scripts, so that nothing of the application is touched: writes down what the
// application sent through its injected WebSockets and what they handed to it, in order, as record_test.go does for
// its server.
window.tap = [];
{
  const line = (data) => {
    const bytes = typeof data == 'string' ? new TextEncoder().encode(data) : new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength);
    let hash = 0x811c9dc5; // FNV-1a
    for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
    return `${typeof data == 'string' ? 'text' : 'binary'} ${bytes.length} ${hash}`;
  };
  const taps = new WeakMap();
  const dispatch = EventTarget.prototype.dispatchEvent;
  EventTarget.prototype.dispatchEvent = function (event) {
    if (event.type == 'statechange' && this.state == 'connected' && !taps.has(this)) { // comes before open
      const entry = {sent: [], received: []};
      const {send} = this;
      taps.set(this, entry);
      window.tap.push(entry);
      this.send = (data) => {
        entry.sent.push(line(data));
        send.call(this, data);
      };
    } else if (event.type == 'message') taps.get(this)?.received.push(line(event.data));
    return dispatch.call(this, event);
  };
}
