package link

import (
	"testing"

	"google.golang.org/protobuf/proto"

	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// A frame with more in it than its bytes look like is refused before it is
// decoded; every honest one is decoded as it is.
func TestFrameBounds(t *testing.T) { // not parallel: it counts allocations
	chunk := func(entries int) []byte {
		list := make([]*stellav1.LogEntry, entries)
		for i := range list {
			list[i] = &stellav1.LogEntry{}
		}
		data, err := proto.Marshal(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_LogChunk{LogChunk: &stellav1.LogChunk{Entries: list}}})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var f stellav1.ConnectRequest
	if err := decodeFrame(chunk(maxList), &f); err != nil || len(f.GetLogChunk().GetEntries()) != maxList {
		t.Errorf("%d entries, %v", len(f.GetLogChunk().GetEntries()), err)
	}
	bomb := chunk(2_000_000)
	if n := testing.AllocsPerRun(1, func() {
		if decodeFrame(bomb, &f) == nil {
			t.Error("it is taken")
		}
	}); n > 20 {
		t.Errorf("%v allocations for a frame that is refused", n)
	}
	for _, data := range [][]byte{nil, {0x0a}, {0x0a, 0xff}, {0x12, 0x02, 0x08, 0x80}, {0xff, 0xff, 0xff}} {
		if (decodeFrame(data, &f) == nil) != (proto.Unmarshal(data, &f) == nil) {
			t.Errorf("%x", data)
		}
	}
}
