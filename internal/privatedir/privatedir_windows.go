package privatedir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Make makes the folder at path, and those above it that are missing. It has its
// access list from the first moment: full access, for it and for all that will be
// in it, for the system, for administrators, and for the user who runs this when
// he is neither. A folder that is there is left as it is. It may be called again.
func Make(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	me, err := self()
	if err != nil {
		return err
	}
	list := "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)"
	if !trusted(me) && !administrator() {
		list += "(A;OICI;FA;;;" + me.String() + ")"
	}
	descriptor, err := windows.SecurityDescriptorFromString(list)
	if err != nil {
		return fmt.Errorf("access list of %s: %w", path, err)
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	attributes := &windows.SecurityAttributes{SecurityDescriptor: descriptor}
	attributes.Length = uint32(unsafe.Sizeof(*attributes))
	err = windows.CreateDirectory(name, attributes)
	if info, statErr := os.Stat(path); errors.Is(err, windows.ERROR_ALREADY_EXISTS) && statErr == nil && info.IsDir() {
		return nil // somebody made it just now
	}
	if err != nil {
		return &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return nil
}

// Others returns who else may do something with the folder at path, by the names
// of their accounts: everybody in its access list, and its owner, but for the
// system, administrators and the user who runs this. It changes nothing.
func Others(path string) ([]string, error) {
	sd, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION|windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return nil, fmt.Errorf("access list of %s: %w", path, err)
	}
	me, err := self()
	if err != nil {
		return nil, err
	}
	others, err := letIn(sd, me)
	if err != nil {
		return nil, fmt.Errorf("access list of %s: %w", path, err)
	}
	return others, nil
}

// letIn returns whom a descriptor lets in beside me and those who are trusted.
func letIn(sd *windows.SECURITY_DESCRIPTOR, me *windows.SID) ([]string, error) {
	owner, _, err := sd.Owner()
	if err != nil {
		return nil, err
	}
	dacl, _, err := sd.DACL()
	if err != nil {
		return nil, err
	}
	if dacl == nil {
		return []string{"everybody, for there is no access list"}, nil
	}
	let := []*windows.SID{owner}
	for i := range uint32(dacl.AceCount) {
		var ace *windows.ACCESS_ALLOWED_ACE
		if err := windows.GetAce(dacl, i, &ace); err != nil {
			return nil, err
		}
		if ace.Header.AceType == windows.ACCESS_ALLOWED_ACE_TYPE && ace.Mask != 0 {
			let = append(let, (*windows.SID)(unsafe.Pointer(&ace.SidStart))) //nolint:gosec // the list is Windows' own, and this is where its entries have the id
		}
	}
	var others []string
	for _, sid := range let {
		if name := account(sid); !trusted(sid) && !sid.Equals(me) && !slices.Contains(others, name) {
			others = append(others, name)
		}
	}
	return others, nil
}

// trusted reports whether an id stands for those who can do everything anyhow, or
// for nobody beside the owner.
func trusted(sid *windows.SID) bool {
	return slices.ContainsFunc([]windows.WELL_KNOWN_SID_TYPE{
		windows.WinLocalSystemSid, windows.WinBuiltinAdministratorsSid, windows.WinCreatorOwnerSid, windows.WinCreatorOwnerRightsSid,
	}, sid.IsWellKnown)
}

// self is the user who runs this.
func self() (*windows.SID, error) {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("find out who runs this: %w", err)
	}
	return user.User.Sid, nil
}

// administrator reports whether administrators' rights are in force.
func administrator() bool {
	sid, err := windows.CreateWellKnownSid(windows.WinBuiltinAdministratorsSid)
	if err != nil {
		return false
	}
	member, err := windows.Token(0).IsMember(sid)
	return err == nil && member
}

func account(sid *windows.SID) string {
	name, domain, _, err := sid.LookupAccount("")
	switch {
	case err != nil:
		return sid.String()
	case domain == "":
		return name
	}
	return domain + `\` + name
}
