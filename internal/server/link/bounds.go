package link

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// checkBounds looks, before a frame is decoded, at how many things are in it:
// four megabytes of empty log entries would become hundreds in memory. It goes
// as deep as the lists of a frame are. What does not parse, decoding refuses.
func checkBounds(frame []byte) error {
	for len(frame) > 0 {
		_, kind, n := protowire.ConsumeTag(frame)
		if n < 0 {
			return protowire.ParseError(n)
		}
		frame = frame[n:]
		n = protowire.ConsumeFieldValue(0, kind, frame)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if kind == protowire.BytesType {
			inner, _ := protowire.ConsumeBytes(frame)
			if err := countFields(inner); err != nil {
				return err
			}
		}
		frame = frame[n:]
	}
	return nil
}

func countFields(message []byte) error {
	for fields := 0; len(message) > 0; fields++ {
		if fields > maxList {
			return fmt.Errorf("it has lists of more than %d items: send them in parts", maxList)
		}
		_, _, n := protowire.ConsumeField(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
	}
	return nil
}

// decodeFrame decodes a frame within its bounds.
func decodeFrame(data []byte, f *stellav1.ConnectRequest) error {
	if err := checkBounds(data); err != nil {
		return err
	}
	return proto.Unmarshal(data, f)
}

// frameCodec is connect's own codec for protobuf, with the bounds of a frame.
type frameCodec struct{}

// Name implements connect.Codec.
func (frameCodec) Name() string { return "proto" }

// Marshal implements connect.Codec.
func (frameCodec) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, errors.New("link: what is to be sent is no frame")
	}
	return proto.Marshal(m)
}

// Unmarshal implements connect.Codec.
func (frameCodec) Unmarshal(data []byte, v any) error {
	f, ok := v.(*stellav1.ConnectRequest)
	if !ok {
		return errors.New("link: what is to be received is no frame")
	}
	return decodeFrame(data, f)
}
