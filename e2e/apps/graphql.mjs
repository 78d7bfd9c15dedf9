// graphql-ws: its own server and client. A second connection_init would end the connection with 4429.
import {GraphQLInt, GraphQLObjectType, GraphQLSchema} from 'graphql';
import {useServer} from 'graphql-ws/use/ws';
import {WebSocketServer} from 'ws';
import {answer, different, here, not, site} from './serve.mjs';

const server = site({
  '/page.html': ['text/html; charset=utf-8', here('./graphql.html')],
  '/graphql-ws.js': ['text/javascript', here('./node_modules/graphql-ws/umd/graphql-ws.min.js')],
});
const heard = [];
let tell = () => {};
const query = new GraphQLObjectType({name: 'Query', fields: {none: {type: GraphQLInt}}});
const mutation = new GraphQLObjectType({
  name: 'Mutation',
  fields: {step: {type: GraphQLInt, args: {n: {type: GraphQLInt}}, resolve: (_, {n}) => {
    heard.push(n);
    tell();
    return n;
  }}},
});
const subscription = new GraphQLObjectType({
  name: 'Subscription',
  fields: {stepped: {type: GraphQLInt, async *subscribe() {
    for (let next = 0; ; ) {
      while (next < heard.length) yield {stepped: heard[next++]};
      await new Promise((resolve) => (tell = resolve));
    }
  }}},
});
const counts = {initialised: 0, subscriptions: 0, closed: 0};
const sockets = new WebSocketServer({server, path: '/graphql'});
sockets.on('connection', (socket) => socket.on('message', (text) => {
  if (JSON.parse(text).type === 'connection_init') counts.initialised++;
}));
useServer({
  schema: new GraphQLSchema({query, mutation, subscription}),
  onSubscribe: (_, id, {query}) => void (query.startsWith('subscription') && counts.subscriptions++),
  onClose: () => void counts.closed++,
}, sockets);
server.listen(0, '127.0.0.1', () =>
  answer(server.address().port, {
    check: (n) => different('steps', heard, n) + not('connection_init', counts.initialised, 1) +
      not('subscriptions', counts.subscriptions, 1) + not('closes', counts.closed, 0),
  }),
);
