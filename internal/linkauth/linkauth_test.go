package linkauth_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/internal/linkauth"
)

// pair is both ends of a TLS connection.
func pair(t *testing.T, version uint16) (server, client tls.ConnectionState) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	s := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12})
	c := tls.Client(b, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, MaxVersion: version})
	done := make(chan error, 1)
	go func() { done <- s.HandshakeContext(t.Context()) }()
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return s.ConnectionState(), c.ConnectionState()
}

// Both ends of a connection have the same, and no two connections have.
func TestExported(t *testing.T) {
	t.Parallel()
	server, client := pair(t, tls.VersionTLS13)
	other, _ := pair(t, tls.VersionTLS13)
	var all [][]byte
	for _, cs := range []tls.ConnectionState{server, client, other} {
		out, err := linkauth.Exported(&cs)
		if err != nil || len(out) != 32 {
			t.Fatal(out, err)
		}
		all = append(all, out)
	}
	if !bytes.Equal(all[0], all[1]) || bytes.Equal(all[0], all[2]) {
		t.Errorf("%x", all)
	}
	old, _ := pair(t, tls.VersionTLS12)
	if _, err := linkauth.Exported(&old); err == nil {
		t.Error("TLS 1.2 exports something")
	}
}

func share(t *testing.T) *linkauth.Share {
	t.Helper()
	s, err := linkauth.NewShare()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Both ends make the same key, and another one when anything differs.
func TestKey(t *testing.T) {
	t.Parallel()
	agent, server := share(t), share(t)
	b := linkauth.Binding{Exported: bytes.Repeat([]byte{1}, 32), AgentID: "a"}
	key, err := b.AgentKey(agent, server.Public())
	if err != nil {
		t.Fatal(err)
	}
	if same, err := b.ServerKey(server, agent.Public()); err != nil || same != key {
		t.Error("the ends have two keys:", err)
	}
	for what, other := range map[string]func() (linkauth.Key, error){
		"another connection": func() (linkauth.Key, error) {
			b := b
			b.Exported = bytes.Repeat([]byte{2}, 32)
			return b.ServerKey(server, agent.Public())
		},
		"another agent": func() (linkauth.Key, error) {
			b := b
			b.AgentID = "b"
			return b.ServerKey(server, agent.Public())
		},
		"another share": func() (linkauth.Key, error) { return b.ServerKey(server, share(t).Public()) },
		"the roles":     func() (linkauth.Key, error) { return b.AgentKey(server, agent.Public()) },
	} {
		if k, err := other(); err != nil || k == key {
			t.Errorf("%s has the same key (%v)", what, err)
		}
	}
	for name, bad := range map[string][]byte{"none": nil, "short": make([]byte, 31), "long": make([]byte, 33), "of low order": make([]byte, 32)} {
		if _, err := b.ServerKey(server, bad); err == nil {
			t.Errorf("a share that is %s is taken", name)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v %s %x", key, key, key, key, key); strings.Contains(text, fmt.Sprintf("%x", key[:4])) || strings.Contains(text, fmt.Sprint(key[0], " ", key[1])) {
		t.Errorf("the key shows: %s", text)
	}
}

func TestMAC(t *testing.T) {
	t.Parallel()
	b := linkauth.Binding{Exported: make([]byte, 32), AgentID: "a"}
	key, err := b.AgentKey(share(t), share(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.AgentKey(share(t), share(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	beat := []byte("a heartbeat")
	mac := key.MAC(7, beat)
	if len(mac) != 32 || !key.Check(7, beat, mac) {
		t.Errorf("%x", mac)
	}
	if key.Check(8, beat, mac) || key.Check(7, beat[1:], mac) || key.Check(7, nil, mac) || key.Check(7, beat, nil) || key.Check(7, beat, mac[:31]) || other.Check(7, beat, mac) {
		t.Error("it fits something else, too")
	}
	for i := range mac {
		mac[i] ^= 0x80
		if key.Check(7, beat, mac) {
			t.Errorf("good with another byte %d", i)
		}
		mac[i] ^= 0x80
	}
}

func BenchmarkMAC(b *testing.B) {
	var key linkauth.Key
	beat := make([]byte, 250)
	mac := key.MAC(1, beat)
	b.ReportAllocs()
	for b.Loop() {
		if !key.Check(1, beat, mac) {
			b.Fatal()
		}
	}
}
