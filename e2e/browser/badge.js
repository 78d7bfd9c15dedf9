// A page's use of the browser client, put into an empty page by the tests: a badge that tells what is pending.
window.begin = async (url, onSessionLost) => {
  const {TideoverSocket} = await import('/.tideover/client.js');
  document.body.innerHTML = '<p id="badge"></p>';
  const socket = new TideoverSocket(url, [], {onSessionLost, initialDelay: 50, maxDelay: 200, maxRetries: Infinity});
  window.page = {socket, badges: [], states: [], heard: [], closes: []};
  socket.onpending = () => {
    const badge = document.getElementById('badge');
    badge.textContent = socket.pending ? `${socket.pending} messages pending…` : '';
    page.badges.push(badge.textContent);
  };
  socket.onstatechange = () => page.states.push(socket.state);
  socket.onsessionlost = () => page.states.push('lost');
  socket.onmessage = ({data}) => page.heard.push(data);
  socket.onclose = ({code}) => page.closes.push(code);
  await new Promise((resolve) => (socket.onopen = resolve));
};
window.say = (from, to) => {
  for (let i = from; i <= to; i++) page.socket.send(JSON.stringify({id: `subject-${i}`, user: 'subject', text: 'Grüße ✓'}));
};
