package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// TLS names the certificate for clients. Both files empty: plain text.
type TLS struct {
	CertFile string `yaml:"cert_file"` // PEM: the certificate, then those that lead to its root
	KeyFile  string `yaml:"key_file"`  // PEM, not encrypted
}

// UpstreamTLS is how an upstream of scheme wss or https is known, and what the proxy shows it.
type UpstreamTLS struct {
	CAFile             string `yaml:"ca_file"`     // PEM; empty: the system's roots
	ServerName         string `yaml:"server_name"` // empty: the host of the URL
	CertFile           string `yaml:"cert_file"`   // empty, with KeyFile: no client certificate
	KeyFile            string `yaml:"key_file"`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify"`
}

// maxPEMBytes bounds a file of certificates or a key: the roots of a whole system are a
// quarter of it.
const maxPEMBytes = 1 << 20

// ReadPEM reads a file of certificates or a key; a relative path starts at the working directory. What is no
// regular file, or larger than any such file, is refused: nobody must wait for a pipe that stays empty. Errors
// name the file.
func ReadPEM(path string) ([]byte, error) {
	if strings.Contains(path, "-----BEGIN") {
		return nil, errors.New("want the name of a file, not what is in it") // and it may be secret
	}
	data, err := readRegular(path)
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err // without the path, which comes in quotes
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shown(path), err)
	}
	return data, nil
}

func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPEMBytes+1))
	if err == nil && len(data) > maxPEMBytes {
		err = fmt.Errorf("is larger than %s, so no file of certificates or keys", formatSize(maxPEMBytes))
	}
	return data, err
}

// A PairError tells which file of a pair is at fault.
type PairError struct {
	Key bool // the key's file, not the certificate's
	Err error
}

func (e *PairError) Error() string { return e.Err.Error() }
func (e *PairError) Unwrap() error { return e.Err }

// ParsePair makes a certificate of what ReadPEM read: the chain, leaf first, and its key. An error is a
// *PairError. Whether the certificate is valid today is not looked at.
func ParsePair(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	certs, err := blocks(certPEM, "CERTIFICATE")
	if err != nil {
		return nil, &PairError{Err: err}
	}
	for _, der := range certs {
		if _, err := x509.ParseCertificate(der); err != nil {
			return nil, &PairError{Err: fmt.Errorf("holds a certificate that can't be read: %w", err)}
		}
	}
	if _, err := blocks(keyPEM, "PRIVATE KEY"); err != nil {
		return nil, &PairError{Key: true, Err: err}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, &PairError{Key: true, Err: fmt.Errorf("holds no key for the first certificate of cert_file: %w", err)}
	}
	return &pair, nil
}

// ParseRoots makes a pool of the certificates that ReadPEM read. Those that can't be read are passed over, as
// long as there is one that can.
func ParseRoots(bundle []byte) (*x509.CertPool, error) {
	if _, err := blocks(bundle, "CERTIFICATE"); err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return nil, errors.New("holds no certificate that can be read")
	}
	return pool, nil
}

// blocks returns the PEM blocks of a kind; no block is an error. Before "PRIVATE KEY" may stand an algorithm.
func blocks(data []byte, kind string) (found [][]byte, err error) {
	other := ""
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		switch {
		case kind == "PRIVATE KEY" && (block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != ""):
			return nil, errors.New("holds an encrypted private key; want it without a passphrase, readable by the proxy only")
		case block.Type == kind, kind == "PRIVATE KEY" && strings.HasSuffix(block.Type, " PRIVATE KEY"):
			found = append(found, block.Bytes)
		default:
			other = block.Type
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case other != "":
		return nil, fmt.Errorf("holds a %s, but no %s; are the files swapped?", oneLine(other), kind)
	}
	return nil, fmt.Errorf("holds no %s in PEM, the text form that begins with -----BEGIN", kind)
}

// certificates checks the files that the tls sections name.
func (k *checker) certificates() {
	for _, pair := range []struct{ section, cert, key string }{
		{"tls", k.TLS.CertFile, k.TLS.KeyFile},
		{"upstream.tls", k.Upstream.TLS.CertFile, k.Upstream.TLS.KeyFile},
	} {
		certKey, keyKey := pair.section+".cert_file", pair.section+".key_file"
		none := "or neither for plain text"
		if pair.section != "tls" {
			none = "or neither for no client certificate"
		}
		k.rule((pair.cert == "") != (pair.key == ""), []string{certKey, keyKey}, "want both %s and %s, %s", certKey, keyKey, none)
		if pair.cert == "" || pair.key == "" {
			continue
		}
		certPEM, certErr := ReadPEM(pair.cert)
		k.rule(certErr != nil, []string{certKey}, "%v", certErr)
		keyPEM, keyErr := ReadPEM(pair.key)
		k.rule(keyErr != nil, []string{keyKey}, "%v", keyErr)
		if certErr != nil || keyErr != nil {
			continue
		}
		var wrong *PairError
		if _, err := ParsePair(certPEM, keyPEM); errors.As(err, &wrong) && wrong.Key {
			k.rule(true, []string{keyKey}, "%s: %v", shown(pair.key), wrong)
		} else if err != nil {
			k.rule(true, []string{certKey}, "%s: %v", shown(pair.cert), err)
		}
	}
	if file := k.Upstream.TLS.CAFile; file != "" {
		bundle, err := ReadPEM(file)
		if err == nil {
			if _, err = ParseRoots(bundle); err != nil {
				err = fmt.Errorf("%s: %w", shown(file), err)
			}
		}
		k.rule(err != nil, []string{"upstream.tls.ca_file"}, "%v", err)
	}
	name := k.Upstream.TLS.ServerName
	k.rule(!validHost(name, true), []string{"upstream.tls.server_name"}, "%s: want a host name or an IP address, without a port", shown(name))
	if !k.Upstream.URL.TLS() {
		for _, set := range []struct {
			key string
			is  bool
		}{
			{"ca_file", k.Upstream.TLS.CAFile != ""},
			{"server_name", name != ""},
			{"cert_file", k.Upstream.TLS.CertFile != ""},
			{"key_file", k.Upstream.TLS.KeyFile != ""},
			{"insecure_skip_verify", k.Upstream.TLS.InsecureSkipVerify},
		} {
			k.rule(set.is, []string{"upstream.tls." + set.key}, "has a meaning for wss:// and https:// upstreams only; change upstream.url, or remove the key")
		}
	}
}
