// tab.mjs for Firefox, which it starts: node firefox.mjs PROGRAM PAGE. Spoken to in WebDriver BiDi
// (https://w3c.github.io/webdriver-bidi/), as Playwright's driver asks for things that Debian's Firefox has not.
import {spawn} from 'node:child_process';
import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {createInterface} from 'node:readline';
import WebSocket from 'ws';

const emit = (event) => process.stdout.write(JSON.stringify(event) + '\n');
const [program, page] = process.argv.slice(2);
const home = mkdtempSync(tmpdir() + '/firefox-');
// Loopback is reached directly, and nothing else is to be reached.
writeFileSync(home + '/user.js', `
user_pref('network.proxy.type', 0);
user_pref('network.captive-portal-service.enabled', false);
user_pref('network.connectivity-service.enabled', false);
user_pref('browser.safebrowsing.update.enabled', false);
user_pref('datareporting.policy.dataSubmissionEnabled', false);
user_pref('app.update.enabled', false);
user_pref('services.settings.server', 'data:,');
`);
const firefox = spawn(program, ['--headless', '--profile', home, '--remote-debugging-port', '0', 'about:blank'], {
  stdio: ['ignore', 'ignore', 'pipe'],
  env: {...process.env, HOME: home, MOZ_HEADLESS: '1'},
});
const end = () => {
  firefox.once('exit', () => {
    rmSync(home, {recursive: true, force: true, maxRetries: 5});
    process.exit(0);
  });
  firefox.kill();
};
const address = await new Promise((resolve) => {
  createInterface({input: firefox.stderr}).on('line', (line) => {
    const found = /BiDi listening on (ws:\S+)/.exec(line);
    if (found) resolve(found[1]);
  });
});

const socket = new WebSocket(address + '/session');
const waiting = new Map();
let count = 0;
const ask = (method, params) =>
  new Promise((resolve, reject) => {
    waiting.set(++count, {resolve, reject});
    socket.send(JSON.stringify({id: count, method, params}));
  });
socket.on('message', (text) => {
  const {id, result, error, message} = JSON.parse(text);
  if (error) waiting.get(id)?.reject(new Error(`${error}: ${message}`));
  else waiting.get(id)?.resolve(result);
});
await new Promise((resolve) => socket.once('open', resolve));
await ask('session.new', {capabilities: {}});
const {contexts: [{context}]} = await ask('browsingContext.getTree', {});
const goto = (url) => ask('browsingContext.navigate', {context, url, wait: 'complete'});
const evaluate = async (text) => {
  const expression = `(async () => JSON.stringify(await (0, eval)(${JSON.stringify(text)})))()`;
  const {type, result, exceptionDetails} = await ask('script.evaluate', {expression, target: {context}, awaitPromise: true});
  if (type !== 'success') throw new Error(exceptionDetails.text);
  return result.value ?? 'null';
};
const property = (object, name, value) => `Object.defineProperty(${object}, '${name}', {value: ${value}, configurable: true});`;
const commands = {
  eval: ({text}) => evaluate(text),
  goto: async ({text}) => void (await goto(text)),
  // The page is told; what gets through is the test's own network's affair.
  offline: ({on}) => evaluate(`${property('navigator', 'onLine', !on)} void window.dispatchEvent(new Event('${on ? 'offline' : 'online'}'))`),
  frozen: () => 'null', // Firefox freezes no pages
  hidden: ({on}) => evaluate(`${property('document', 'hidden', on)} ${property('document', 'visibilityState', on ? '"hidden"' : '"visible"')}
    void document.dispatchEvent(new Event('visibilitychange', {bubbles: true}))`),
};
await goto(page);
emit({ev: 'ready'});
createInterface({input: process.stdin})
  .on('line', async (line) => {
    const command = JSON.parse(line);
    try {
      emit({ev: 'value', data: (await commands[command.cmd](command)) ?? 'null'});
    } catch (error) {
      emit({ev: 'value', data: JSON.stringify(`failed: ${error}`)});
    }
  })
  .on('close', end);
