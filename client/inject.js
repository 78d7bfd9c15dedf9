// SPDX-License-Identifier: Apache-2.0

/**
 * Replaces window.WebSocket by the resilient one, for pages that know nothing of it (`http.inject_client`).
 *
 * Modules are deferred: the page's own scripts would have taken hold of the native WebSocket by then. So this has to
 * be a classic script, first in <head>. It is served as one function that holds tideover.js without its export line,
 * and then this file, which finds TideoverSocket in scope; see Inject in embed.go. Nothing else becomes global.
 *
 * Only same-origin URLs are taken over, as only those are known to pass through the proxy. Workers and frames have
 * globals of their own and keep theirs. The token lives in the socket, so each tab has its own, gone on reload.
 */

const Native = window.WebSocket;

if (Native && !Native.tideoverNative) {
  const define = Object.defineProperty;

  const isNear = (url) => {
    try {
      return new URL(new URL(url, document.baseURI).href.replace(/^ws/, 'http')).origin == location.origin;
    } catch {
      return false; // the native one has the right words for it
    }
  };

  const Resilient = new Proxy(TideoverSocket, {
    construct(target, args, newTarget) {
      const near = isNear(args[0]);
      if (!args.length || (!near && newTarget === Resilient)) return new Native(...args);
      // A subclass of ours has our methods, whatever the origin: `plain` and `strict` then only pass everything on.
      // A third argument is dropped, as WebSocket drops it.
      const options = { WebSocket: Native, strict: true, plain: !near };
      return Reflect.construct(target, [args[0], args[1], options], newTarget);
    },
  });

  const ordinary = Function.prototype[Symbol.hasInstance];
  define(TideoverSocket, Symbol.hasInstance, {
    value(object) {
      return ordinary.call(this, object) || (this === Resilient && object instanceof Native);
    },
  });
  define(TideoverSocket, 'name', { value: 'WebSocket' });
  define(TideoverSocket, 'tideoverNative', { value: Native });
  define(TideoverSocket.prototype, 'constructor', { value: Resilient });
  define(TideoverSocket.prototype, Symbol.toStringTag, { value: 'WebSocket', configurable: true });
  define(window, 'WebSocket', { value: Resilient });
}
