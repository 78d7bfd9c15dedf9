package proxy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/tideover/tideover/client"
)

// clientPath is where the browser client is served.
const clientPath = "/.tideover/client.js"

var clientETag, injectETag = eTag(client.JS), eTag(client.Inject)

func eTag(b []byte) string {
	sum := sha256.Sum256(b)
	return `"` + hex.EncodeToString(sum[:8]) + `"`
}

// serveClient serves the browser client. It may be fetched from pages of any origin: which of
// them may connect is for limits.allowed_origins to say.
func (p *Proxy) serveClient(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	serveScript(w, r, client.JS, clientETag)
}

func serveScript(w http.ResponseWriter, r *http.Request, script []byte, tag string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "scripts are served by GET", http.StatusMethodNotAllowed)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/javascript; charset=utf-8")
	h.Set("Cache-Control", "public, no-cache") // to be asked for again: it belongs to this proxy's version
	h.Set("ETag", tag)
	h.Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(script))
}
