package rest

import (
	"bytes"

	"stella-ops.org/stella/api"
)

// aboutSecrets is about secrets.
func aboutSecrets() map[string]about {
	const gone = "404 secret_not_found"
	return map[string]about{
		"secret.set": {
			tag: "secrets",
			text: "Gives a secret a value, and makes it if there is none of that name. Targets and tasks refer to it as `secret://name`, and hold no value themselves: " +
				"an agent that gets a task from now on gets the new one. Idempotent, but that the version grows.",
			request: api.SecretRequest{Value: "hunter2"}, answers: "What is known of the secret, without its value.", answer: exampleNamedSecret(), refuses: sealing,
		},
		"secret.list": {
			tag: "secrets", text: "Lists secrets without their values, by name unless told otherwise.",
			answers: "A page of secrets.", answer: api.SecretList{Items: []api.Secret{exampleNamedSecret()}},
		},
		"secret.get": {
			tag: "secrets", text: "Shows what is known of a secret: not its value, which no operation shows, but which targets refer to it.",
			answers: "The secret.", answer: exampleNamedSecretUsed(), refuses: []string{gone},
		},
		"secret.delete": {
			tag:     "secrets",
			text:    "Removes a secret. It is refused while targets refer to it, unless forced. A queued task that refers to it will fail, and say so. Repeated, it answers 404.",
			answers: "The secret is removed.", answer: deleted, refuses: []string{gone, "409 secret_in_use"},
		},
	}
}

func exampleNamedSecret() api.Secret {
	return api.Secret{Name: "web-ssh-key", Version: 2, CreatedBy: "alice", UpdatedBy: "bob", CreatedAt: at(0, 0), UpdatedAt: at(30, 0)}
}

func exampleNamedSecretUsed() api.Secret {
	s := exampleNamedSecret()
	s.UsedBy = []string{"web-1", "web-2"}
	return s
}

func exampleCredentials() api.TaskCredentials {
	return api.TaskCredentials{Attempt: 1, Sealed: exampleSealed(), Signature: bytes.Repeat([]byte{0x5a}, 64)}
}

func exampleSealed() *api.Sealed {
	return &api.Sealed{KeyID: "8f14e45fceea167a", Data: []byte("the encapsulated key, and then the ciphertext")}
}
