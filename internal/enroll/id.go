package enroll

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"regexp"

	"github.com/google/uuid"

	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/fault"
)

// An agent's id is unique among all tenants: certificates, links and tasks know
// agents by it alone. So that nobody learns which ids another tenant has, by asking
// for them, only the first tenant's agents are called by what they ask for. Those of
// the others are called by a hash of the tenant and of that: the same id for the
// same question, of a form that cannot be asked for, and never anybody else's.

var hashedID = regexp.MustCompile(`^t-[0-9a-f]{32}$`)

// idOf returns the id of the agent that asks for one in a tenant, or that is called
// so there already; of none, none.
func (s *Service) idOf(ctx context.Context, tenant, asked string) (string, error) {
	switch {
	case asked == "":
		return "", nil
	case tenant != access.DefaultTenant:
		known, err := s.byID(ctx, tenant, asked)
		if err != nil || known != nil {
			return asked, err
		}
		return hashID(tenant, asked), nil
	case hashedID.MatchString(asked):
		return "", fault.InvalidField("body.id", "%q has the form of ids that the server makes (t- and 32 hexadecimal digits): choose another", asked)
	}
	return asked, nil
}

// newID makes an id for an agent that asks for none.
func newID(tenant string) string {
	id := uuid.Must(uuid.NewV7()).String()
	if tenant != access.DefaultTenant {
		return hashID(tenant, id)
	}
	return id
}

func hashID(tenant, asked string) string {
	sum := sha256.Sum256([]byte(tenant + "\x00" + asked))
	return "t-" + hex.EncodeToString(sum[:16])
}
