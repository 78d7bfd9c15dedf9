package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newPair makes a certificate that signs itself, and its key.
func newPair(t *testing.T) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func writePair(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	cert, key := newPair(t)
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write(t, certFile, cert)
	write(t, keyFile, key)
	return certFile, keyFile
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTLSMistakes: what is wrong with a file is told at the key that names it.
func TestTLSMistakes(t *testing.T) {
	t.Chdir(t.TempDir())
	cert, key := newPair(t)
	_, otherKey := newPair(t)
	for file, text := range map[string][]byte{
		"good.crt": cert, "good.key": key, "other.key": otherKey,
		"empty":       nil,
		"broken.crt":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("none")}),
		"broken.key":  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("none")}),
		"locked.key":  pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("none")}),
		"locked1.key": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}}),
		"huge":        make([]byte, maxPEMBytes+1),
		// Chains and bundles may hold text and other blocks.
		"bundle.crt": append([]byte("Our root\n"+string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("none")}))), cert...),
		"both.pem":   append(append([]byte{}, key...), cert...),
	} {
		write(t, file, text)
	}
	if err := os.Mkdir("dir", 0o700); err != nil {
		t.Fatal(err)
	}
	const wss = "upstream:\n  url: wss://x\n  tls: "
	for text, want := range map[string]string{
		"tls: {cert_file: good.crt, key_file: good.key}":                   "",
		"tls: {cert_file: both.pem, key_file: both.pem}":                   "",
		"tls: {cert_file: '', key_file: ''}":                               "",
		"tls: {cert_file: good.crt}":                                       "1: tls.cert_file: want both tls.cert_file and tls.key_file, or neither for plain text",
		"tls:\n  key_file: good.key":                                       "2: tls.key_file: want both tls.cert_file and tls.key_file, or neither for plain text",
		"tls:\n  cert_file: absent.crt\n  key_file: good.key":              `2: tls.cert_file: "absent.crt": no such file or directory`,
		"tls:\n  cert_file: good.crt\n  key_file: absent.key":              `3: tls.key_file: "absent.key": no such file or directory`,
		"tls:\n  cert_file: empty\n  key_file: good.key":                   `2: tls.cert_file: "empty": holds no CERTIFICATE in PEM, the text form that begins with -----BEGIN`,
		"tls:\n  cert_file: broken.crt\n  key_file: good.key":              `2: tls.cert_file: "broken.crt": holds a certificate that can't be read: x509: malformed certificate`,
		"tls:\n  cert_file: good.crt\n  key_file: broken.key":              `3: tls.key_file: "broken.key": holds no key for the first certificate of cert_file: tls: failed to parse private key`,
		"tls:\n  cert_file: good.crt\n  key_file: other.key":               `3: tls.key_file: "other.key": holds no key for the first certificate of cert_file: tls: private key does not match public key`,
		"tls:\n  cert_file: good.crt\n  key_file: locked.key":              `3: tls.key_file: "locked.key": holds an encrypted private key; want it without a passphrase, readable by the proxy only`,
		"tls:\n  cert_file: good.crt\n  key_file: locked1.key":             `3: tls.key_file: "locked1.key": holds an encrypted private key; want it without a passphrase, readable by the proxy only`,
		"tls:\n  cert_file: good.key\n  key_file: good.crt":                `2: tls.cert_file: "good.key": holds a PRIVATE KEY, but no CERTIFICATE; are the files swapped?`,
		"tls:\n  cert_file: dir\n  key_file: /dev/zero":                    "2: tls.cert_file: \"dir\": is not a regular file\np.yaml:3: tls.key_file: \"/dev/zero\": is not a regular file",
		"tls:\n  cert_file: good.crt\n  key_file: huge":                    `3: tls.key_file: "huge": is larger than 1MiB, so no file of certificates or keys`,
		"tls:\n  cert_file: good.crt\n  key_file: '-----BEGIN s3cr3t'":     `3: tls.key_file: want the name of a file, not what is in it`,
		wss + "{ca_file: bundle.crt, server_name: '10.0.0.1'}":             "",
		wss + "{cert_file: good.crt, key_file: good.key}":                  "",
		wss + "{insecure_skip_verify: true}":                               "",
		wss + "{key_file: good.key}":                                       "3: upstream.tls.key_file: want both upstream.tls.cert_file and upstream.tls.key_file, or neither for no client certificate",
		wss + "{cert_file: good.crt, key_file: other.key}":                 `3: upstream.tls.key_file: "other.key": holds no key for the first certificate of cert_file: tls: private key does not match public key`,
		wss + "{ca_file: absent}":                                          `3: upstream.tls.ca_file: "absent": no such file or directory`,
		wss + "{ca_file: good.key}":                                        `3: upstream.tls.ca_file: "good.key": holds a PRIVATE KEY, but no CERTIFICATE; are the files swapped?`,
		wss + "{ca_file: broken.crt}":                                      `3: upstream.tls.ca_file: "broken.crt": holds no certificate that can be read`,
		wss + "{server_name: 'a:443'}":                                     `3: upstream.tls.server_name: "a:443": want a host name or an IP address, without a port`,
		"upstream:\n  url: ws://x\n  tls:\n    insecure_skip_verify: true": `4: upstream.tls.insecure_skip_verify: has a meaning for wss:// and https:// upstreams only; change upstream.url, or remove the key`,
		"upstream:\n  url: unix:/x\n  tls:\n    ca_file: good.crt":         `4: upstream.tls.ca_file: has a meaning for wss:// and https:// upstreams only; change upstream.url, or remove the key`,
		"upstream:\n  url: ws://x\n  tls:\n    server_name: ''":            "",
	} {
		_, err := Parse("p.yaml", []byte(text))
		switch {
		case want == "" && err != nil:
			t.Errorf("%q is refused: %v", text, err)
		case want != "" && (err == nil || !strings.HasPrefix(err.Error(), "p.yaml:"+want) || strings.Count(err.Error(), "\n") != strings.Count(want, "\n")):
			t.Errorf("%q: got\n%v\nwant\np.yaml:%s", text, err, want)
		}
	}
}
