package engine

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"strings"
	"testing"
)

// A sealer makes TLS 1.3 records of any type with the traffic secret of one side (RFC 8446, sections 5.2 and 7.3):
// what crypto/tls does not say by itself can be said with it.
type sealer struct {
	t      *testing.T
	hash   func() hash.Hash
	keyLen int
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// newSealer takes the secret from a key log, under its label.
func newSealer(t *testing.T, log, label string, suite uint16) *sealer {
	t.Helper()
	s := &sealer{t: t, hash: sha256.New, keyLen: 16}
	switch suite {
	case tls.TLS_AES_256_GCM_SHA384:
		s.hash, s.keyLen = sha512.New384, 32
	case tls.TLS_CHACHA20_POLY1305_SHA256: // not in the standard library for others
		t.Skip("without AES in hardware crypto/tls chooses ChaCha20, which this test can't make")
	}
	for line := range strings.Lines(log) {
		if words := strings.Fields(line); words[0] == label {
			secret, err := hex.DecodeString(words[2])
			if err != nil {
				t.Fatal(err)
			}
			s.use(secret)
			return s
		}
	}
	t.Fatalf("no %s in the key log", label)
	return nil
}

func (s *sealer) expand(label string, n int) []byte {
	s.t.Helper()
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len("tls13 "+label)))
	info = append(info, "tls13 "+label...)
	out, err := hkdf.Expand(s.hash, s.secret, string(append(info, 0)), n)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *sealer) use(secret []byte) {
	s.t.Helper()
	s.secret, s.seq = secret, 0
	key := s.expand("key", s.keyLen)
	s.iv = s.expand("iv", 12)
	block, err := aes.NewCipher(key)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.aead, err = cipher.NewGCM(block); err != nil {
		s.t.Fatal(err)
	}
}

// next is what a KeyUpdate does (RFC 8446, section 7.2).
func (s *sealer) next() {
	s.t.Helper()
	s.use(s.expand("traffic upd", s.hash().Size()))
}

// seal makes one record.
func (s *sealer) seal(typ byte, content []byte) []byte {
	inner := append(append([]byte{}, content...), typ)
	header := []byte{23, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(header[3:], uint16(len(inner)+s.aead.Overhead()))
	nonce := append([]byte{}, s.iv...)
	for i := range 8 {
		nonce[4+i] ^= byte(s.seq >> (56 - 8*i))
	}
	s.seq++
	return s.aead.Seal(header, nonce, inner, header)
}
