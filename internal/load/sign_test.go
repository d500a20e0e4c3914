package load

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// The simulated agents make of the page's example what the page says.
func TestSignedHeartbeatVectors(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/signed-heartbeat.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		AgentID string
		Link    struct {
			ExportedHex, AgentSharePrivateHex, ServerShareHex, KeyHex string
			Heartbeats                                                []struct {
				Number    int64
				Heartbeat []byte
				MacHex    string
			}
		}
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	bytesOf := func(text string) []byte {
		out, err := hex.DecodeString(text)
		if err != nil || len(out) != 32 {
			t.Fatal(text, err)
		}
		return out
	}
	share, err := ecdh.X25519().NewPrivateKey(bytesOf(v.Link.AgentSharePrivateHex))
	if err != nil {
		t.Fatal(err)
	}
	vow := &vow{opening: &opening{agentID: v.AgentID, exported: bytesOf(v.Link.ExportedHex), share: share}}
	welcome := &stellav1.Welcome{KeyShare: bytesOf(v.Link.ServerShareHex)}
	if err := vow.take(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_Welcome{Welcome: welcome}}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(vow.key[:], bytesOf(v.Link.KeyHex)) {
		t.Errorf("the key is %x", vow.key)
	}
	for _, b := range v.Link.Heartbeats {
		if f := vow.beat(b.Heartbeat).GetSignedHeartbeat(); f.GetNumber() != b.Number || !bytes.Equal(f.GetMac(), bytesOf(b.MacHex)) {
			t.Errorf("heartbeat %d: %v", b.Number, f)
		}
	}
	if len(v.Link.Heartbeats) == 0 {
		t.Error("the page has no heartbeats")
	}
}
