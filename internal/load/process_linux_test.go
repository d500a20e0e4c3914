package load

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
)

func TestTheServerIsFoundByItsPort(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1:0", "[::]:0"} {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		p, err := findProcess(t.Context(), "https://127.0.0.1:"+port, 0)
		if err != nil || p.pid != os.Getpid() {
			t.Fatalf("%s: %+v, %v", addr, p, err)
		}
		s, err := p.read()
		if err != nil || s.rss < 1<<20 || s.threads < 1 || s.files < 3 {
			t.Errorf("%+v, %v", s, err)
		}
	}
}

func TestTheServerIsNotThere(t *testing.T) {
	t.Parallel()
	if _, err := findProcess(t.Context(), "https://127.0.0.1:1", 0); !errors.Is(err, errUnseen) {
		t.Errorf("nothing listens: %v", err)
	}
	if _, err := findProcess(t.Context(), "https://192.0.2.1:8443", 0); !errors.Is(err, errUnseen) {
		t.Errorf("another machine: %v", err)
	}
	if _, err := findProcess(t.Context(), "https://127.0.0.1:1", 1<<30); err == nil || !strings.Contains(err.Error(), "there is no process") {
		t.Errorf("no such process: %v", err)
	}
}
