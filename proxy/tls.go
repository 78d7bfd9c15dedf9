package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/engine"
)

// overTLS is what both sides have in common. The handshake of RFC 6455 is one of HTTP/1.1, so
// that no other protocol is offered or taken. Cipher suites and curves are Go's own choice, which
// follows what is known of them. Records are of full size from the start: a message is of use
// only once it is whole.
func overTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, DynamicRecordSizingDisabled: true}
}

// clientTLS is the TLS of clients. One holds for all the time that the proxy runs, because the
// keys of session tickets belong to it: whoever returns after a reload resumes its TLS session.
func (p *Proxy) clientTLS() *tls.Config {
	c := overTLS()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if files := p.settings.Load().certificate; files != nil {
			return files.get(), nil
		}
		return nil, errors.New("a reload has just turned TLS off")
	}
	return c
}

// A tlsListener accepts clients that speak TLS as long as the settings have a certificate. The
// handshake is for those to make who use the connection.
type tlsListener struct {
	net.Listener
	p *Proxy
}

func (l *tlsListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil || l.p.settings.Load().certificate == nil {
		return conn, err
	}
	return engine.ServerTLS(conn, l.p.tls), nil
}

// openCertificate reads the certificate for clients.
func openCertificate(files config.TLS, log *zap.Logger) (*pemFiles[tls.Certificate], error) {
	f, err := openPEM([]string{files.CertFile, files.KeyFile}, func(texts [][]byte) (*tls.Certificate, error) {
		return config.ParsePair(texts[0], texts[1])
	}, func(now *tls.Certificate, err error) {
		tellCertificate(log, "for clients", files.CertFile, now, err)
	})
	if err != nil {
		return nil, fmt.Errorf("read the certificate for clients (tls): %w", err)
	}
	tellCertificate(log, "for clients", files.CertFile, f.get(), nil)
	return f, nil
}

// openUpstreamTLS reads what TLS with the upstream needs. All that belongs to one state of the
// files is in one tls.Config.
func openUpstreamTLS(upstream config.Upstream, log *zap.Logger) (*pemFiles[tls.Config], error) {
	own := upstream.TLS
	var paths []string
	if own.CertFile != "" {
		paths = append(paths, own.CertFile, own.KeyFile)
	}
	if own.CAFile != "" {
		paths = append(paths, own.CAFile)
	}
	f, err := openPEM(paths, func(texts [][]byte) (*tls.Config, error) {
		c := overTLS()
		c.ServerName = upstream.URL.ServerName()
		if own.ServerName != "" {
			c.ServerName = own.ServerName
		}
		c.InsecureSkipVerify = own.InsecureSkipVerify
		if own.CertFile != "" {
			pair, err := config.ParsePair(texts[0], texts[1])
			if err != nil {
				return nil, err
			}
			c.Certificates, texts = []tls.Certificate{*pair}, texts[2:]
		}
		if own.CAFile != "" {
			var err error
			if c.RootCAs, err = config.ParseRoots(texts[0]); err != nil {
				return nil, fmt.Errorf("%s: %w", own.CAFile, err)
			}
		}
		return c, nil
	}, func(now *tls.Config, err error) {
		tellUpstreamTLS(log, own, now, err)
	})
	if err != nil {
		return nil, fmt.Errorf("read the files of upstream.tls: %w", err)
	}
	tellUpstreamTLS(log, own, f.get(), nil)
	if own.InsecureSkipVerify {
		log.Warn("upstream.tls.insecure_skip_verify: anybody on the way to the upstream can pose as it")
	}
	return f, nil
}

func tellUpstreamTLS(log *zap.Logger, own config.UpstreamTLS, now *tls.Config, err error) {
	switch {
	case err != nil:
		tellCertificate(log, "for the upstream", own.CertFile, nil, err)
	case own.CertFile != "":
		tellCertificate(log, "for the upstream", own.CertFile, &now.Certificates[0], nil)
	case own.CAFile != "":
		log.Info("certificates of the upstream's authorities read", zap.String("file", own.CAFile))
	}
}

// tellCertificate logs that a certificate is used from now on, or why the old one stays.
func tellCertificate(log *zap.Logger, whose, file string, now *tls.Certificate, err error) {
	if err != nil {
		log.Error("certificates "+whose+" not reloaded, the old ones stay", zap.Error(err))
		return
	}
	tell, text := log.Info, "certificate "+whose+" read"
	if today := time.Now(); today.After(expiry(now)) || today.Before(now.Leaf.NotBefore) {
		tell, text = log.Warn, "certificate "+whose+" read, but it is not valid today"
	}
	tell(text, zap.String("file", file), zap.Strings("names", names(now.Leaf)),
		zap.Time("not_before", now.Leaf.NotBefore), zap.Time("not_after", expiry(now)))
}

func names(cert *x509.Certificate) []string {
	all := append([]string{}, cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		all = append(all, ip.String())
	}
	return all
}

// expiry is when the first certificate of a chain expires.
func expiry(pair *tls.Certificate) time.Time {
	first := pair.Leaf.NotAfter
	for _, der := range pair.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil && cert.NotAfter.Before(first) {
			first = cert.NotAfter
		}
	}
	return first
}

// certificateExpiry is when the certificates in use expire, by who sees them.
func (set *settings) certificateExpiry() map[string]time.Time {
	all := map[string]time.Time{}
	if set.certificate != nil {
		all["clients"] = expiry(set.certificate.get())
	}
	if set.upstreamTLS != nil {
		if own := set.upstreamTLS.get().Certificates; len(own) > 0 {
			all["upstream"] = expiry(&own[0])
		}
	}
	return all
}

// secured makes the TLS handshake with the upstream. It closes conn if that fails.
func secured(ctx context.Context, conn net.Conn, c *tls.Config) (*tls.Conn, error) {
	secure := engine.ClientTLS(conn, c)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS handshake for %s: %w", c.ServerName, err)
	}
	return secure, nil
}
