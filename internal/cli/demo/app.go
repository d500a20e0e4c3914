package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/internal/daemon"
)

// app is the small service that the demo deploys. It is part of the program,
// so that the demo needs neither a compiler nor a network.
type app struct {
	listen  string
	version string
	// broken makes a version that runs and does not work.
	broken bool
	// owner is a process with which the service ends too: a demo that was
	// killed leaves nothing running.
	owner int
}

func appCommand() *cobra.Command {
	var a app
	serve := &cobra.Command{
		Use: "serve", Short: "Answer with a greeting", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), cmd.OutOrStdout()) },
	}
	flags := serve.Flags()
	flags.StringVar(&a.listen, "listen", ":8080", "the address to listen on")
	flags.StringVar(&a.version, "version", "1.0.0", "the version to greet with")
	flags.BoolVar(&a.broken, "broken", false, "do not work")
	flags.IntVar(&a.owner, "owner", 0, "end when this process does")
	cmd := &cobra.Command{Use: "demo-app", Short: "The service that the demo deploys", Hidden: true}
	cmd.AddCommand(serve)
	return cmd
}

func (a *app) handler(log io.Writer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		if a.broken {
			http.Error(w, "cannot reach the database", http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "hello from %s\n", a.version)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if a.broken {
			fmt.Fprintln(log, "hello: cannot reach the database: no such host db.internal")
			http.Error(w, "cannot reach the database", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

func (a *app) serve(ctx context.Context, log io.Writer) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", a.listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "hello: version %s listens on %s\n", a.version, listener.Addr())
	server := &http.Server{Handler: a.handler(log), ReadHeaderTimeout: 5 * time.Second}
	return daemon.Run(ctx,
		daemon.Task{Name: "http", Run: func(context.Context) error {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		}},
		daemon.Task{Name: "stop", Run: func(ctx context.Context) error {
			a.awaitEnd(ctx)
			return server.Close()
		}},
	)
}

// awaitEnd waits for the end of ctx or of the owner.
func (a *app) awaitEnd(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for a.owner == 0 || alive(a.owner) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
