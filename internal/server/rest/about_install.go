package rest

import (
	"maps"

	"github.com/danielgtaylor/huma/v2"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/server/install"
)

// describeInstall adds what hosts fetch that are to become agents.
func (s *Server) describeInstall(doc *huma.OpenAPI) {
	text := func(description string) *huma.Schema {
		return &huma.Schema{Type: huma.TypeString, Description: description}
	}
	add := func(path, id, summary, kind, description, example string) {
		op := s.plainOperation(path, id, summary, anybody)
		op.Responses["200"] = &huma.Response{Description: description, Content: map[string]*huma.MediaType{kind: {Schema: text(description), Example: example}}}
		doc.AddOperation(&op)
	}
	const sum = "9f2c1e7a5b3d4860f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708"
	add("/install.sh", "installer.linux", "Get the installer for Linux", "text/x-shellscript", "The installer, a shell script.", "#!/bin/sh\n…\n")
	add("/install.ps1", "installer.windows", "Get the installer for Windows", "text/plain", "The installer, a PowerShell script.", "# …\n")
	add("/download/SHA256SUMS", "agent-program.checksums", "List the agents' programs with their checksums", "text/plain",
		"A line for each program, as sha256sum writes it.", sum+"  stella-agent_linux_amd64\n")
	add("/download/SHA256SUMS.sig", "agent-program.signature", "Get the signature on the checksums", octets, "64 bytes.", "the signature's bytes")
	add("/pki/signing-key.pem", "server.signing-key", "Get the public key by which the server signs", "application/x-pem-file", "The key in PEM.",
		"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n")

	program := s.plainOperation("/download/{os}/{arch}/{file}", "agent-program.get", "Get an agent's program, or its checksum", anybody)
	content(&program)
	program.Responses["200"].Content["text/plain"] = &huma.MediaType{Schema: text("A line as sha256sum writes it, for a file that ends in .sha256."), Example: sum + "  stella-agent\n"}
	for _, p := range []struct{ name, text, example string }{
		{"os", "The operating system, as in linux.", "linux"},
		{"arch", "The architecture, as in amd64 or arm64.", "amd64"},
		{"file", "stella-agent, with .exe behind it on windows if you like, or that with .sha256.", "stella-agent"},
	} {
		program.Parameters = append(program.Parameters, &huma.Param{Name: p.name, In: "path", Required: true, Description: p.text, Schema: text(""), Example: p.example})
	}
	doc.AddOperation(&program)
}

// aboutInstall is about how hosts become agents.
func aboutInstall() map[string]about {
	abouts := map[string]about{
		"agent.bootstrap": {
			tag: "tokens",
			text: "Makes a registration token for a new agent, and the line to type on its host: that fetches the installer, checks by a pin or a checksum that it is this server's, and runs it. " +
				"The same token may be used by hand. The secret is in this answer and nowhere else. Not idempotent: repeated, it is another token.",
			request: exampleBootstrapRequest(), answers: "The token, and how to use it.", answer: exampleBootstrap(),
		},
	}
	maps.Copy(abouts, map[string]about{
		"installer.linux": {
			tag: "install", text: "Gives the script that installs an agent on Linux. It has the checksums of the agents in it, so it is the one thing to check: by the pin of the server's key (curl --pinnedpubkey) or by its own checksum, which are both part of a bootstrap.",
		},
		"installer.windows": {
			tag: "install", text: "Gives the script that installs an agent on Windows, likewise.",
		},
		"agent-program.checksums": {
			tag: "install", text: "Lists the agents' programs that this server has. The list is empty for a server that was built without an agent and was given none.",
		},
		"agent-program.signature": {
			tag: "install", text: "Gives the signature (Ed25519, RFC 8032) on the list of checksums, by the server's signing key: on the words `stella/v1/checksums`, a NUL, and the list's bytes.",
		},
		"agent-program.get": {
			tag: "install", text: "Gives an agent's program. Parts of it can be asked for, to go on where a connection broke.",
			refuses: []string{"404 agent_program_not_found", "416 range_not_satisfiable"},
		},
		"server.signing-key": {
			tag: "install", text: "Gives the public key (Ed25519) by which the server signs now. It proves nothing by itself: fetch it over a connection that you trust.",
		},
	})
	return abouts
}

func exampleBootstrapRequest() api.BootstrapRequest {
	return api.BootstrapRequest{RegistrationTokenRequest: api.RegistrationTokenRequest{Name: "prod-01", Environment: "production", Platform: install.Linux, Capabilities: []string{"docker"}}}
}

func exampleBootstrap() api.Bootstrap {
	const token = "reg_k4vq7m2zr5xw3n6y1t8b9c0d2f4g6h8j_…" //nolint:gosec // of nobody
	return api.Bootstrap{
		ID: exampleTokenID, Token: token, TokenExpires: at(15, 0), MaxUses: 1, ServerURL: exampleServer, Platform: install.Linux,
		Configuration: install.Configuration("prod-01", exampleServer),
		InstallCommand: "f=$(mktemp) && curl -fsSk --pinnedpubkey 'sha256//6mGk1DTw…=' -o \"$f\" " + exampleServer + "/install.sh && " +
			"STELLA_BOOTSTRAP_TOKEN=" + token + " sh \"$f\"",
		Alternatives: []api.BootstrapCommand{{When: "with wget", Command: "f=$(mktemp) && wget …"}}, InstallScript: "#!/bin/sh\n…\n",
	}
}
