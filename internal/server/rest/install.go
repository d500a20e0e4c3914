package rest

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/seal"
	"stella-ops.org/stella/internal/server/install"
)

// bootstrap adds what makes a host an agent, for admins.
func (s *Server) bootstrap() {
	type newAgent struct{ Body api.BootstrapRequest }
	op := s.operation(http.MethodPost, "/api/v1/admin/agents/bootstrap", "agent.bootstrap", "Make a registration token, and say how to start an agent with it", admin)
	op.DefaultStatus = http.StatusCreated
	handle(s, op, func(ctx context.Context, in *newAgent) (api.Bootstrap, error) {
		req := &in.Body
		req.Platform = cmp.Or(req.Platform, install.Linux)
		if req.Platform != install.Linux && req.Platform != install.Windows && req.Platform != install.Docker {
			return api.Bootstrap{}, fault.InvalidField("body.platform", "%q is no platform that there is an installer for: give linux, windows or docker", clip(req.Platform))
		}
		server := s.BaseURL()
		if req.ServerURL != "" {
			var err error
			if server, err = s.Installers.CheckServer(req.ServerURL); err != nil {
				return api.Bootstrap{}, err
			}
		}
		p := principal(ctx)
		t, text, err := s.Enroll.CreateToken(ctx, p.TenantID, p.Name, req.RegistrationTokenRequest)
		if err != nil {
			return api.Bootstrap{}, err
		}
		out := api.Bootstrap{
			ID: t.ID, Token: text, TokenExpires: t.ExpiresAt, MaxUses: t.MaxUses, ServerURL: server, Platform: req.Platform,
			Configuration: install.Configuration(t.Name, server),
		}
		return out, s.installerInto(&out)
	})
}

// installerInto adds the commands and the installer.
func (s *Server) installerInto(out *api.Bootstrap) error {
	commands, err := s.Installers.Commands(out.Platform, out.ServerURL, out.Token)
	if err != nil {
		return err
	}
	out.InstallCommand = commands[0].Line
	for _, c := range commands[1:] {
		out.Alternatives = append(out.Alternatives, api.BootstrapCommand{When: c.When, Command: c.Line})
	}
	if out.Platform == install.Docker {
		return nil
	}
	token := out.Token
	if out.Platform == install.Windows {
		token = "" // an environment variable says it
	}
	if out.InstallScript, err = s.Installers.Script(out.Platform, out.ServerURL, token); err != nil {
		return err
	}
	all, err := s.Installers.Agents.All()
	if err != nil {
		return err
	}
	for i := range all {
		if all[i].OS == out.Platform {
			return nil
		}
	}
	out.Warning = "this server has no agent for " + out.Platform + " to give out: put one into its folder of agents (docs/install.md), or give the installer one of its own"
	return nil
}

// installers adds what a host fetches that is to become an agent. None of it is
// secret.
func (s *Server) installers() {
	script := func(platform, kind string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			// Who has reached the server by a name will reach it by that again.
			server, err := s.Installers.CheckServer("https://" + r.Host)
			if err != nil {
				server = s.BaseURL()
			}
			text, err := s.Installers.Script(platform, server, "")
			if err != nil {
				s.Refuse(w, r, s.told(r, err))
				return
			}
			plain(w, kind, []byte(text))
		}
	}
	s.open("GET /install.sh", script(install.Linux, "text/x-shellscript; charset=utf-8"))
	s.open("GET /install.ps1", script(install.Windows, "text/plain; charset=utf-8"))
	s.open("GET /download/{os}/{arch}/{file}", s.giveProgram)
	s.open("GET /download/SHA256SUMS", func(w http.ResponseWriter, r *http.Request) {
		if text, err := s.Installers.Checksums(); err != nil {
			s.Refuse(w, r, s.told(r, err))
		} else {
			plain(w, "text/plain; charset=utf-8", []byte(text))
		}
	})
	s.open("GET /download/SHA256SUMS.sig", func(w http.ResponseWriter, r *http.Request) {
		if text, err := s.Installers.Checksums(); err != nil {
			s.Refuse(w, r, s.told(r, err))
		} else {
			plain(w, octets, s.Signing.Signer().Sign(api.PurposeChecksums, []byte(text)))
		}
	})
	s.open("GET /pki/signing-key.pem", func(w http.ResponseWriter, r *http.Request) {
		text, err := publicPEM(s.Signing.Public())
		if err != nil {
			s.Refuse(w, r, s.told(r, err))
			return
		}
		plain(w, "application/x-pem-file", text)
	})
}

func plain(w http.ResponseWriter, kind string, data []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(data) //nolint:gosec // no kind that this is called with is run by a browser, and none is guessed
}

// told has what is no refusal noted in the log.
func (s *Server) told(r *http.Request, err error) error {
	if k := fault.KindOf(err); k == fault.Internal {
		s.log.ErrorContext(r.Context(), "request failed", "path", r.URL.Path, "error", err)
	}
	return err
}

// giveProgram answers with an agent's program, all or a part of it, or with its
// checksum.
func (s *Server) giveProgram(w http.ResponseWriter, r *http.Request) {
	file, wantsSum := strings.CutSuffix(r.PathValue("file"), ".sha256")
	p, err := s.Installers.Agents.Find(r.PathValue("os"), r.PathValue("arch"))
	if err != nil {
		s.Refuse(w, r, s.told(r, err))
		return
	}
	if name := strings.TrimSuffix(file, ".exe"); p == nil || name != "stella-agent" || name != file && p.OS != install.Windows {
		s.Refuse(w, r, fault.New(fault.NotFound, "agent_program_not_found",
			"this server has no %s for %s/%s: /download/SHA256SUMS lists what it has, docs/install.md tells how to add more", clip(file), clip(r.PathValue("os")), clip(r.PathValue("arch"))))
		return
	}
	if wantsSum {
		plain(w, "text/plain; charset=utf-8", []byte(p.SHA256+"  "+file+"\n"))
		return
	}
	content, err := s.Installers.Agents.Open(p)
	if err != nil {
		s.Refuse(w, r, s.told(r, fmt.Errorf("an agent's program: %w", err)))
		return
	}
	defer content.Close()
	w.Header().Set("Cache-Control", "no-cache")
	s.give(w, r, "sha256:"+p.SHA256, file, content)
}

// publicPEM is the server's public key as openssl reads it.
func publicPEM(public string) ([]byte, error) {
	key, err := seal.ParseServerKey(public)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("the public key %s: %w", base64.StdEncoding.EncodeToString(key), err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
