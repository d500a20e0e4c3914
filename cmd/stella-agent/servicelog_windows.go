package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"golang.org/x/sys/windows"
	"gopkg.in/natefinch/lumberjack.v2"

	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/privatedir"
)

// defaultData is where agent.Config has the data when nobody says where: below the
// folder that the program is started in. Services are started in one of Windows'
// own.
const defaultData = "stella-agent-data"

// The log of a service: so many megabytes in a file, and so many older files.
const (
	logMegabytes = 10
	logBackups   = 5
)

// serviceData sets the data folder of a service, unless somebody has, and makes it.
func serviceData(cfg *agent.Config) error {
	if cfg.Data == defaultData {
		shared, err := windows.KnownFolderPath(windows.FOLDERID_ProgramData, windows.KF_FLAG_DEFAULT)
		if err != nil {
			return fmt.Errorf("data folder: %w; say by --data which to use", err)
		}
		cfg.Data = filepath.Join(shared, serviceName)
	}
	if !filepath.IsAbs(cfg.Data) {
		return fmt.Errorf("data folder: %q is relative, and a service is started in a folder of Windows': give the whole path, as in C:\\ProgramData\\%s", cfg.Data, serviceName)
	}
	if err := privatedir.Make(cfg.Data); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	return nil
}

// openLog opens the log below the data folder, whose access list it inherits. What
// Go says when the program crashes goes into a file beside it.
func openLog(data string) (*lumberjack.Logger, error) {
	folder := filepath.Join(data, "logs")
	file := &lumberjack.Logger{Filename: filepath.Join(folder, serviceName+".log"), MaxSize: logMegabytes, MaxBackups: logBackups}
	if _, err := file.Write(nil); err != nil { // it is opened by a write
		return nil, fmt.Errorf("open the log: %w", err)
	}
	crash, err := os.OpenFile(filepath.Join(folder, serviceName+"-crash.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of crashes: %w", err)
	}
	if err := errors.Join(debug.SetCrashOutput(crash, debug.CrashOptions{}), crash.Close()); err != nil {
		return nil, fmt.Errorf("open the log of crashes: %w", err)
	}
	return file, nil
}
