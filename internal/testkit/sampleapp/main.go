// Command sampleapp is a small server to deploy in tests and demonstrations:
// it says which version it is, and can misbehave.
//
//	sampleapp serve     answer on APP_ADDR (:8080): / with APP_VERSION, /healthz with ok
//	sampleapp health    exit 0 if the server beside it answers /healthz with ok
//	sampleapp say TEXT  print TEXT
//	sampleapp exit N    print a line to stderr and exit with N
//	sampleapp wait      do nothing until a signal comes
//
// With APP_MODE=unhealthy the server answers /healthz with 503; with
// APP_MODE=exit it prints a few lines and exits with 1 at once; with
// APP_MODE=stubborn it does not end on SIGTERM.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) == 0 {
		args = []string{"serve"}
	}
	switch args[0] {
	case "serve":
		return serve()
	case "health":
		return health()
	case "say":
		fmt.Println(strings.Join(args[1:], " "))
		return 0
	case "exit":
		code := 0
		if len(args) > 1 {
			code, _ = strconv.Atoi(args[1])
		}
		fmt.Fprintln(os.Stderr, "sampleapp: exiting with", code)
		return code
	case "wait":
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		<-ctx.Done()
		return 0
	}
	fmt.Fprintf(os.Stderr, "sampleapp: unknown command %q; use serve, health, say, exit or wait\n", args[0])
	return 2
}

func address() string {
	if addr := os.Getenv("APP_ADDR"); addr != "" {
		return addr
	}
	return ":8080"
}

func serve() int {
	version, mode := os.Getenv("APP_VERSION"), os.Getenv("APP_MODE")
	fmt.Printf("sampleapp %s: starting in mode %q on %s\n", version, mode, address())
	if mode == "exit" {
		fmt.Fprintln(os.Stderr, "sampleapp: cannot open the database")
		fmt.Fprintln(os.Stderr, "sampleapp: giving up")
		return 1
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, version) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if mode == "unhealthy" {
			fmt.Println("sampleapp: not healthy")
			http.Error(w, "the database is away", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok", version)
	})
	listener, err := net.Listen("tcp", address())
	if err != nil {
		fmt.Fprintln(os.Stderr, "sampleapp:", err)
		return 1
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for range signals {
			if mode == "stubborn" {
				fmt.Println("sampleapp: not now")
				continue
			}
			_ = server.Close()
			return
		}
	}()
	if err := server.Serve(listener); err != http.ErrServerClosed {
		fmt.Fprintln(os.Stderr, "sampleapp:", err)
		return 1
	}
	fmt.Printf("sampleapp %s: stopped\n", version)
	return 0
}

func health() int {
	_, port, err := net.SplitHostPort(address())
	if err != nil {
		fmt.Fprintln(os.Stderr, "sampleapp:", err)
		return 2
	}
	client := &http.Client{Timeout: 3 * time.Second}
	resp, err := client.Get("http://" + net.JoinHostPort("127.0.0.1", port) + "/healthz")
	if err != nil {
		fmt.Fprintln(os.Stderr, "sampleapp:", err)
		return 1
	}
	defer resp.Body.Close()
	fmt.Println("sampleapp:", resp.Status)
	if resp.StatusCode != http.StatusOK {
		return 1
	}
	return 0
}
