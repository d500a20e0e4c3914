package privatedir

import (
	"testing"

	"golang.org/x/sys/windows"
)

// Who else is let in is told once, by whatever entry of the list, and as the owner.
func TestLetIn(t *testing.T) {
	t.Parallel()
	me, err := windows.StringToSid("S-1-5-21-1-2-3-1001")
	if err != nil {
		t.Fatal(err)
	}
	for list, want := range map[string]int{
		"O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)":                                   0,
		"O:SYD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FR;;;WD)":                   1,
		"O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FW;;;BU)(A;OICI;FR;;;BU)(A;;FR;;;AU)":       2,
		"O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;CO)(D;OICI;FA;;;WD)":   0,
		"O:S-1-5-21-1-2-3-1001D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;S-1-5-21-1-2-3-1001)": 0,
		"O:S-1-5-21-1-2-3-1002D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)":                  1,
		"O:S-1-5-21-1-2-3-1002D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FR;;;WD)":  2,
	} {
		sd, err := windows.SecurityDescriptorFromString(list)
		if err != nil {
			t.Fatalf("%s: %v", list, err)
		}
		if others, err := letIn(sd, me); err != nil || len(others) != want {
			t.Errorf("%s: %q, %v; want %d", list, others, err, want)
		}
	}
}
