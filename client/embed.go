// Package client holds the browser client, for the proxy to serve.
package client

import (
	"bytes"
	_ "embed"
	"slices"
)

// JS is the client as an ES module. Not to be changed.
//
//go:embed tideover.js
var JS []byte

//go:embed inject.js
var inject []byte

// Inject is a classic script that replaces window.WebSocket by the client, for same-origin URLs. It has to run before
// the page's own scripts. Not to be changed.
var Inject = classic(JS, inject)

// classic wraps a module that imports nothing, and what follows it, into one function. The module's exports stand on
// its last line, which is left out: a classic script may not have any.
func classic(module, rest []byte) []byte {
	body, _, _ := bytes.Cut(module, []byte("\nexport "))
	return slices.Concat([]byte("(() => {\n'use strict';\n"), body, []byte("\n"), rest, []byte("})();\n"))
}
