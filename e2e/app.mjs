// A naive chat application, as it runs in a page and, with npm packages for WebSocket, in Node. It gives its
// messages ids, keeps each until it sees it come back from the room, and sends what is kept again on a new
// connection. What it receives it takes as it comes.
//
// open() makes a WebSocket, or something with its interface. retry: a closed connection is opened again
// after so many milliseconds; 0 leaves that to the socket. emit({ev: …}) tells what happens, and on which
// connection, counted from 1.
export function chat({open, retry, emit}) {
  const kept = new Map(); // id → text, in the order of sending
  let socket;
  let opens = 0;
  let over = false;

  const connect = () => {
    const mine = socket = open();
    let conn;
    mine.onopen = () => {
      conn = ++opens;
      emit({ev: 'open', conn});
      for (const text of kept.values()) mine.send(text);
    };
    mine.onmessage = ({data}) => {
      for (const line of data.split('\n')) { // some backends put several messages into one
        emit({ev: 'message', conn, data: line});
        try {
          kept.delete(JSON.parse(line).id);
        } catch {
          // not ours
        }
      }
    };
    mine.onerror = () => {};
    mine.onclose = ({code, reason}) => {
      if (mine !== socket) return;
      emit({ev: 'close', conn, code, data: reason});
      if (retry && !over) setTimeout(() => mine === socket && connect(), retry);
    };
  };
  const send = (id, text) => {
    kept.set(id, text);
    if (socket.readyState === 1) socket.send(text);
  };

  const commands = {
    // talk sends the messages from … to …, one every so many milliseconds.
    talk({user, from, to, every}) {
      let next = from;
      const timer = setInterval(() => {
        if (next > to) {
          clearInterval(timer);
          return emit({ev: 'talked'});
        }
        const id = `${user}-${next++}`;
        send(id, JSON.stringify({id, user, text: 'Grüße ✓'}));
      }, every);
    },
    send: ({text}) => socket.send(text),
    close({code}) {
      over = true;
      if (code) socket.close(code);
      else socket.close();
    },
    // abandon gives up a connection that looks dead and makes a new one.
    abandon() {
      if (socket.reconnect) return socket.reconnect();
      const dead = socket;
      connect();
      dead.onopen = null; // what the browser has received, and given a receipt for, still comes to the page
      if (dead.terminate) dead.terminate();
    },
  };
  connect();
  return (command) => commands[command.cmd](command);
}
